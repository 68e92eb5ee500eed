"""The stages of a run and the commands beside them: one module per subcommand of the same name."""
