"""The report of a run: one self-contained page, the same in Markdown, and the charts in it."""
