"""The ablation ladder of the SteerLM paper: what each rung trains on, how it is measured, and what comes out."""
