"""What a text says of itself, each measure a function of the text and its language: dials without raters."""
