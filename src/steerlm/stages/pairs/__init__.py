"""Training pairs for rewriting by hindsight: what a text became is taken for what was asked (`steerlm pairs`)."""
