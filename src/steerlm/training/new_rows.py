"""A rate of their own for the rows of new tokens: they begin as what other tokens mean, and have furthest to go."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from steerlm.checkpoint.token_rows import ROWS

FASTER = 10.0
"""Rate of new rows, as a multiple of that of everything else. Beside adapters on Gemma 3 270M 30 learned less in a
short try; where all weights are trained see docs/results/header.md."""


def learn_faster(optimizer: torch.optim.Optimizer, core: Any, new_ids: Sequence[int], rate: float) -> None:
    """Let the rows of new tokens learn `FASTER` times as fast as everything else.

    Args:
        optimizer: of all that is trained.
        core: the model, whose embedding may get sharded by rows later on.
        new_ids: tokens whose rows of the embedding are new; rows that are a table beside adapters
            (`checkpoint.token_rows`) are found by their name.
        rate: the peak of what else is trained.
    """
    tables = [table for name, table in core.named_parameters() if ROWS in name and table.requires_grad]
    if tables:
        _split_off(optimizer, tables, rate)
    elif len(new_ids):
        _Stretch(core.get_input_embeddings(), new_ids).register(optimizer)


def _split_off(optimizer: torch.optim.Optimizer, tables: Sequence[nn.Parameter], rate: float) -> None:
    """Give tables a group of their own."""
    own = {id(table) for table in tables}
    for group in optimizer.param_groups:
        group["params"] = [parameter for parameter in group["params"] if id(parameter) not in own]
    optimizer.add_param_group({"params": list(tables), "lr": rate * FASTER, "weight_decay": 0.0})


class _Stretch:
    """Makes an optimizer's steps longer on some rows of an embedding. What it knows of them lasts for one step."""

    def __init__(self, embedding: Any, ids: Sequence[int]):
        self._embedding = embedding
        self._ids = torch.tensor(sorted(ids))
        self._rows: Tensor | None = None
        self._before = torch.empty(0)

    def register(self, optimizer: torch.optim.Optimizer) -> None:
        """Take part in the steps of an optimizer."""
        optimizer.register_step_pre_hook(self._remember)
        optimizer.register_step_post_hook(self._stretch)

    def _remember(self, *_: Any) -> None:
        weight, rows = self._here()
        self._before = weight[rows]

    def _stretch(self, *_: Any) -> None:
        weight, rows = self._here()
        weight[rows] = torch.lerp(self._before, weight[rows], FASTER)

    def _here(self) -> tuple[Tensor, Tensor]:
        """Return the part of the embedding's matrix that this rank holds, and where in it the rows are."""
        weight = self._embedding.weight.detach()
        sharded = isinstance(weight, DTensor)
        if self._rows is None:
            self._rows = self._ids.to(weight.device)
            if sharded:
                wanted_V_1 = torch.zeros(len(weight), 1, device=weight.device).index_fill(0, self._rows, 1.0)
                held = distribute_tensor(wanted_V_1, weight.device_mesh, weight.placements).to_local()
                self._rows = held.flatten().nonzero().flatten().to(weight.to_local().device)
        return weight.to_local() if sharded else weight, self._rows
