"""The processes of a distributed launch (`accelerate launch`, torchrun), of which there is usually one."""

from __future__ import annotations

from datetime import timedelta

import torch
from accelerate import PartialState

_PATIENCE = timedelta(days=1)
"""The first process samples and scores alone while the others wait at a barrier, which takes hours at real size."""


def ranks() -> PartialState:
    """Return this process' place among those of the launch; the first call joins them."""
    return PartialState(cpu=not torch.accelerator.is_available(), timeout=_PATIENCE)
