#!/usr/bin/env bash
# Everything behind docs/results/real_input.md, in order. Interrupted anywhere, the same command goes on.
# Needs the data and the checkpoint in ../shared (see README.md). Run it from the root of the repository.
set -euo pipefail
bin=${BIN:-.venv/bin}
here=recipes/real_input
"$bin/python" $here/convert.py
"$bin/steerlm" run $here/recipe.yaml --force  # some labels are nearly constant: to be shown, not to be used
"$bin/python" $here/baselines.py
"$bin/python" $here/measure.py
"$bin/python" $here/causes.py
"$bin/python" $here/write_results.py
