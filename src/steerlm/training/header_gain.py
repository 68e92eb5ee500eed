"""What headers are worth to a model: the loss behind other responses' headers minus the loss behind the right ones.

A model that does not read headers explains a response equally well behind any of them, and the gain is 0. Tried after
every validation on a part of the validation data, logged as `header_gain` (nats per trained token), and at the end for
every dial alone. From the first checkpoint that reads them on, the dials can be tried while the training goes on.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import TrainerCallback, TrainerState

from steerlm.batching.batches import Example, sorted_batches
from steerlm.batching.collating import collate_sft
from steerlm.checkpoint.info import CheckpointInfo, save_info
from steerlm.errors import shell_word
from steerlm.statistics.estimates import Estimate, FloatArray, Weights, cluster_bootstrap, divide
from steerlm.training.conditioning import ConditionedExamples
from steerlm.training.trainer import SteerTrainer
from steerlm.training.turn_pieces import TurnPieces

MOST_RECORDS = 128
"""Records that are tried, at most."""
_READ = 0.05
"""Nats per token from which on a difference between settings can be heard."""

log = logging.getLogger(__name__)


class HeaderExchange(NamedTuple):
    """A record behind its own headers, behind others', and behind its own with others' values of one dial.

    `prompt` is a number that records of the same prompt share.
    """

    prompt: int
    right: Example
    others: Example
    by_dial: Mapping[str, Example]


class HeaderProbe(TrainerCallback):  # type: ignore[misc]
    """Tries the headers of validation data after every validation, and says when there is something to hear.

    Args:
        exchanges: what is compared.
        seed: of the interval.
        info: of the model in training; whole checkpoints and adapters get it, and so can be opened.
        first: whether the model has had no dials before, so that the first that turn are news.

    Attributes:
        trainer: set before the training starts.
    """

    def __init__(self, exchanges: Sequence[HeaderExchange], seed: int, info: CheckpointInfo, first: bool):
        self.trainer: SteerTrainer | None = None
        self._info = info
        self._gain: Estimate | None = None
        self._said = not first
        self._exchanges = exchanges
        self._prompts = [one.prompt for one in exchanges]
        self._seed = seed

    def on_evaluate(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        assert self.trainer is not None
        [gain] = self._measured(self.trainer, [[one.others for one in self._exchanges]])
        self._gain = gain
        ends = {"header_gain_low": gain.low, "header_gain_high": gain.high} if gain.has_interval else {}
        self.trainer.log({"header_gain": gain.value, **ends})
        if state.is_world_process_zero:
            log.info(
                "step %d of %d: held-out loss %.3f, header_gain %.3f [%.3f, %.3f] nats per token",
                *(state.global_step, state.max_steps, _last(state, "eval_loss"), gain.value, gain.low, gain.high),
            )

    def on_save(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        opening = _opening(folder)
        if opening is None or not state.is_world_process_zero:
            return
        save_info(folder, self._info)
        if not self._said and self._gain is not None and self._gain.low > _READ:
            self._said = True
            log.info("the dials begin to turn; to try them while it trains: %s", opening)

    def found(self, state: TrainerState, by_dial: bool) -> dict[str, object] | None:
        """Return the gain at the step whose weights are kept, as an estimate in its JSON form.

        Args:
            state: at the end of the training.
            by_dial: the trainer holds those weights: say what each dial alone is worth as well.
        """
        assert self.trainer is not None
        rows = [row for row in state.log_history if "header_gain" in row and row["step"] == state.best_global_step]
        if not rows:
            return None
        low, high = (rows[-1].get(f"header_gain_{end}", float("nan")) for end in ("low", "high"))
        num_prompts = len(set(self._prompts))
        all_at_once = Estimate(rows[-1]["header_gain"], low, high, len(self._exchanges), num_prompts).to_dict()
        if not by_dial:
            return all_at_once
        self.trainer.model_wrapped.eval()
        dials = list(self._exchanges[0].by_dial)
        gains = self._measured(self.trainer, [[one.by_dial[dial] for one in self._exchanges] for dial in dials])
        return {**all_at_once, "by_dial": {dial: gain.to_dict() for dial, gain in zip(dials, gains, strict=True)}}

    def _measured(self, trainer: SteerTrainer, sides: Sequence[Sequence[Example]]) -> list[Estimate]:
        """Return what the right headers gain over each of the sides, which are in the order of the exchanges."""
        # every rank tries them all: the ranks of a sharded model compute together anyhow
        right_N, tokens_N = _losses(trainer, [one.right for one in self._exchanges])
        gains_N = [_losses(trainer, side)[0] - right_N for side in sides]
        return [cluster_bootstrap(_ratio, [gain_N, tokens_N], self._prompts, self._seed) for gain_N in gains_N]


def _last(state: TrainerState, name: str) -> float:
    return next((float(row[name]) for row in reversed(state.log_history) if name in row), float("nan"))


def _opening(folder: Path) -> str | None:
    """Return the command that opens a checkpoint; None of one that holds shards."""
    short = shell_word(folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder)
    if (folder / "config.json").is_file():
        return f"steerlm chat {short}"
    if (folder / "adapter_config.json").is_file():
        return f"steerlm export {short} --out FOLDER && steerlm chat FOLDER"
    return None


def header_exchanges(examples: ConditionedExamples, dials: Sequence[str], seed: int) -> list[HeaderExchange]:
    """Return validation records behind their own headers and behind others'.

    Args:
        examples: without dropout and decoys.
        dials: names of the attributes, in the schema's order.
        seed: of the choice and of the exchange.

    Returns:
        The trained responses of a record get the headers of other ones; nothing where all headers are equal.
    """
    generator = np.random.default_rng(seed)
    chosen = np.sort(generator.permutation(len(examples))[:MOST_RECORDS])
    records = [examples.turns(record) for record in chosen.tolist()]
    places = [(i, j) for i, turns in enumerate(records) for j, turn in enumerate(turns) if _conditioned(turn)]
    if len({records[i][j].codes for i, j in places}) < 2:
        return []
    order = generator.permutation(len(places)).tolist()
    # a circle: nobody keeps its own
    given = {places[here]: places[there] for here, there in zip(order, np.roll(order, 1).tolist(), strict=True)}

    def exchanged(i: int, dial: int | None) -> Example:
        turns = list(records[i])
        for j, turn in enumerate(turns):
            if (i, j) in given:
                k, m = given[i, j]
                turns[j] = turn._replace(codes=_exchanged(turn.codes, records[k][m].codes, dial))
        return examples.assembled(turns)

    return [
        HeaderExchange(
            int(examples.prompts[chosen[i]]),
            examples.assembled(records[i]),
            exchanged(i, None),
            {name: exchanged(i, dial) for dial, name in enumerate(dials)},
        )
        for i in sorted({i for i, _ in places})
    ]


def _exchanged(own: tuple[int, ...], other: tuple[int, ...], dial: int | None) -> tuple[int, ...]:
    """Return the other's codes, or one's own with the other's value of a dial, where both have one."""
    if dial is None:
        return other
    if min(own[dial], other[dial]) < 0:
        return own
    return (*own[:dial], other[dial], *own[dial + 1 :])


def _conditioned(turn: TurnPieces) -> bool:
    return bool((turn.shown >= 0).any()) and max(turn.codes) >= 0


def _losses(trainer: SteerTrainer, examples: Sequence[Example]) -> tuple[FloatArray, FloatArray]:
    """Return the summed loss of every example (N,) and its number of trained tokens (N,)."""
    losses_N, tokens_N = np.zeros((2, len(examples)))
    lengths = [len(example.input_ids) for example in examples]
    for batch in sorted_batches(lengths, trainer.validation_plan.tokens_per_batch):
        rows = [[examples[i]] for i in batch]
        inputs = trainer._prepare_inputs(collate_sft(rows, trainer.pad_id))
        with torch.no_grad(), trainer.compute_loss_context_manager():
            loss_T = trainer.response_losses(trainer.model_wrapped, inputs, apart=True)
        counts = [example.num_targets for [example] in rows]
        parts = np.split(loss_T[: sum(counts)].cpu().double().numpy(), np.cumsum(counts)[:-1])
        losses_N[batch], tokens_N[batch] = [part.sum() for part in parts], counts
    return losses_N, tokens_N


def _ratio(weights: Weights, differences_N: FloatArray, tokens_N: FloatArray) -> FloatArray:
    difference_R, count_R = weights.totals(differences_N, tokens_N).T
    return divide(difference_R, count_R)
