"""Reading a model of any kind over many sequences: in batches, what they have in common once, and what a head reads."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from steerlm.batching.batches import sorted_batches
from steerlm.batching.collating import last_places, pad_layouts, pad_tokens, token_places
from steerlm.batching.model_inputs import model_inputs
from steerlm.batching.ragged_attention import RAGGED
from steerlm.batching.shared_prompts import (
    Ids,
    ResponseScores,
    Sharing,
    can_be_ragged,
    core_model,
    is_causal,
    lay_out,
    neighbours,
    shared_rows,
    sharing_of,
)
from steerlm.checkpoint.models import Precision, autocast_bf16
from steerlm.scorers.features import Readout
from steerlm.threads import ThreadChooser, paced, thread_chooser

Result = TypeVar("Result")


def in_batches(
    sequences: Sequence[Sequence[int] | Ids],
    forward: Callable[[list[list[Ids]], int], Sequence[Result]],
    sharing: Sharing | None,
    tokens_per_batch: int,
    threads: ThreadChooser | None,
) -> list[Result]:
    """Run sequences of ids through a model, longest first, without gradients.

    Args:
        forward: runs one batch of rows, each of one or more sequences; returns a result per sequence, row after row.
        sharing: what rows cost where sequences can share what they have in common; None: one sequence per row.
        tokens_per_batch: upper bound of rows times longest row.
        threads: told how long batches take; None: the number of threads is given.
    """
    results: list[Any] = [None] * len(sequences)
    ids = [np.asarray(sequence, dtype=np.int32) for sequence in sequences]
    rows = [[i] for i in range(len(ids))]
    lengths = [len(sequence) for sequence in ids]
    if sharing is not None:
        # the turns of a conversation, and the responses to a prompt, are one row with all their tokens once
        alike = neighbours(np.zeros(len(ids), dtype=np.int64), ids.__getitem__)
        members, common = alike.sorted(np.arange(len(ids)))
        shared = shared_rows(members, np.asarray(lengths)[members], common, tokens_per_batch, sharing)
        rows = [list(shared.row(i)) for i in range(len(shared.lengths))]
        lengths = shared.lengths.tolist()
    batches = _batches([len(row) > 1 for row in rows], lengths, tokens_per_batch)
    with torch.inference_mode():
        for batch in paced(batches, threads, lambda batch: sum(lengths[row] for row in batch)):
            found = forward([[ids[i] for i in rows[row]] for row in batch], tokens_per_batch)
            for i, result in zip((i for row in batch for i in rows[row]), found, strict=True):
                results[i] = result
    return results


def _batches(shared: Sequence[bool], lengths: Sequence[int], tokens_per_batch: int) -> Iterator[list[int]]:
    """Yield batches of rows that share prompts and of those that do not, which need no mask nor pieces of their own."""
    for kind in (True, False):
        rows = [i for i, this in enumerate(shared) if this == kind]
        for batch in sorted_batches([lengths[i] for i in rows], tokens_per_batch):
            yield [rows[i] for i in batch]


def feature_reader(
    model: Any, readout: Readout | None, pad_id: int, dtype: torch.dtype, control_ids: Collection[int]
) -> Callable[[list[list[Ids]]], Tensor]:
    """Return what runs one batch of rows and gives what a head reads (N, F), row after row.

    Args:
        model: a model without head; without a readout a classifier.
        readout: what is read of the model; None: what the classifier's last layer gives.
        pad_id: any token id.
    """
    if readout is not None:
        control = torch.tensor(sorted(control_ids), device=model.device)

        def pooled(rows: list[list[Ids]]) -> Tensor:
            ids = [ids for row in rows for ids in row]
            ids_N_T, mask_N_T = (part.to(model.device) for part in pad_tokens(ids, pad_id))
            if not is_causal(model):
                states = model(input_ids=ids_N_T, attention_mask=mask_N_T, output_hidden_states=True).hidden_states
                return readout.read(states, ids_N_T, mask_N_T, control)
            layouts = [lay_out(row) for row in rows]
            batch = {name: tensor.to(model.device) for name, tensor in pad_layouts(layouts, pad_id).items()}
            given = model_inputs(batch, model.config, dtype)
            places_N_T = given.places(token_places(layouts).to(model.device))
            read_N_T = readout.tokens(ids_N_T, mask_N_T, control)
            states = _states_at(model, readout.layers, given.arguments, places_N_T, read_N_T)
            return readout.read(states, ids_N_T, mask_N_T, control)

        return pooled
    if not is_causal(model):

        def apart(rows: list[list[Ids]]) -> Tensor:
            ids_B_T, mask_B_T = pad_tokens([ids for (ids,) in rows], pad_id)
            outputs: Tensor = model(input_ids=ids_B_T.to(model.device), attention_mask=mask_B_T.to(model.device)).logits
            return outputs

        return apart
    response_scores = ResponseScores(model)

    def together(rows: list[list[Ids]]) -> Tensor:
        layouts = [lay_out(row) for row in rows]
        batch = {name: tensor.to(model.device) for name, tensor in pad_layouts(layouts, pad_id).items()}
        given = model_inputs(batch, model.config, dtype)
        places_B_M = given.places(last_places(layouts).to(model.device))
        outputs = response_scores(model, places_B_M, given.arguments)
        widest = places_B_M.shape[1]
        return outputs[[b * widest + m for b, row in enumerate(rows) for m in range(len(row))]]

    return together


def _states_at(
    model: Any, layers: Sequence[int], arguments: Mapping[str, object], places_N_T: Tensor, read_N_T: Tensor
) -> dict[int, Tensor]:
    """Return hidden states (N, T, H) by layer, of tokens at places of the rows that a decoder is given; no gradients.

    Args:
        layers: counted from 0, the embeddings.
        read_N_T: whose states of the last layer are read; what the others have there means nothing.
    """
    stack = getattr(core_model(model).get_decoder(), "layers", None)
    if stack is None:  # gpt2 calls them otherwise
        states = model(**arguments, output_hidden_states=True).hidden_states
        return {layer: states[layer].flatten(0, 1)[places_N_T] for layer in layers}
    found: dict[int, Tensor] = {}

    def keep(layer: int) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def read(_: nn.Module, given: tuple[Tensor, ...]) -> None:
            found[layer] = given[0].flatten(0, 1)[places_N_T]

        return read

    # what no layer needs any more is freed at once: memory that is touched again is faster than fresh memory
    with ExitStack() as hooks:
        for layer in layers:
            if layer < len(stack):
                hooks.callback(stack[layer].register_forward_pre_hook(keep(layer)).remove)
        hooks.enter_context(_only_at(stack[-1].mlp, places_N_T[read_N_T]))
        states = model(**arguments).last_hidden_state
    if len(stack) in layers:
        found[len(stack)] = states.flatten(0, 1)[places_N_T]
    return found


@contextmanager
def _only_at(module: nn.Module, places: Tensor) -> Iterator[None]:
    """Let a module that takes each token by itself compute those at places b * T + t only; the others get zeros."""
    shape: torch.Size

    def take(_: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        nonlocal shape
        shape = given[0].shape
        return given[0].flatten(0, 1)[places][None], *given[1:]

    def put(_: nn.Module, given: object, states_1_P_H: Tensor) -> Tensor:
        whole = states_1_P_H.new_zeros(shape[0] * shape[1], states_1_P_H.shape[-1])
        return whole.index_put((places,), states_1_P_H[0]).view(*shape[:2], -1)

    hooks = module.register_forward_pre_hook(take), module.register_forward_hook(put)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def read_features(
    model: PreTrainedModel,
    readout: Readout,
    pad_id: int,
    control_ids: Collection[int],
    sequences: Sequence[Sequence[int] | Ids],
    precision: Precision,
    tokens_per_batch: int,
) -> npt.NDArray[np.float32]:
    """Return what a head reads of each sequence, (N, F); arguments as of `feature_reader` and `in_batches`."""
    model.eval()
    autocast = autocast_bf16(precision)
    longest = max(len(sequence) for sequence in sequences)
    before = model.config._attn_implementation
    attention = without_padding(model)
    read = feature_reader(model, readout, pad_id, torch.bfloat16 if autocast else model.dtype, control_ids)

    def forward(rows: list[list[Ids]], tokens_per_batch: int) -> list[npt.NDArray[np.float32]]:
        return list(read(rows).float().cpu().numpy())

    with torch.autocast(model.device.type, torch.bfloat16, enabled=autocast):
        sharing, threads = sharing_of(model, longest, attention), thread_chooser(model, "reading")
        found = np.stack(in_batches(sequences, forward, sharing, tokens_per_batch, threads))
    if attention is not None:
        model.set_attn_implementation(before)
    return found


def without_padding(model: PreTrainedModel) -> str | None:
    """Let a decoder on the CPU compute without padding; return by what attention, None where it cannot."""
    if model.device.type != "cpu" or not can_be_ragged(model, training=False):
        return None
    # padded batches are computed as before: what else uses the model sees no difference
    model.set_attn_implementation(RAGGED)
    return RAGGED
