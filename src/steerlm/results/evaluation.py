"""The `results.json` of an evaluation, as `check` and `report` read it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from steerlm.errors import UserError
from steerlm.storage.files import read_json


def read_results(run_dir: Path) -> Any:
    """Read the evaluation of a run folder, or of a folder with a `results.json`; None where there is none.

    Raises:
        UserError: a damaged file, or the results of another command (compare, judge and rate write such a file too).
    """
    for path in (run_dir / "evaluate" / "results.json", run_dir / "results.json"):
        if path.is_file():
            results = read_json(path)
            if "headline_scorer" not in results:
                raise UserError(f"{path} holds no evaluation; give a run folder, or one that `steerlm evaluate` wrote")
            return results
    return None
