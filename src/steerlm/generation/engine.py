"""Sampling from a steerable model (SteerLM, section 3.3): a conversation and attributes in, responses out.

    from steerlm import Message, Request, Sampling, load_engine
    engine = load_engine("runs/playground/bootstrap/model")
    request = Request((Message("user", "Why is the sky blue?"),), {"helpfulness": 4, "humor": 3}, num_samples=4)
    [samples] = engine.generate([request], Sampling(max_new_tokens=256))

The in-process engine works on any Hugging Face causal language model with a key-value cache. A prompt is computed once
for all its samples, and what prompts share that differ in their attributes only, once as well. With fp32 weights a
sample depends on its request's seed and its number alone, not on what is sampled beside it. `steerlm.generation.online`
serves requests that come at any time with the same loop.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from steerlm.attributes import AttributeSchema
from steerlm.checkpoint.heads import likeliest_in_fp32
from steerlm.checkpoint.info import CheckpointInfo
from steerlm.checkpoint.models import (
    Precision,
    default_device,
    load_causal_lm,
    load_info,
    load_tokenizer,
    sampling_precision,
)
from steerlm.errors import UserError
from steerlm.generation.decoding import Decoder, decode_within_memory
from steerlm.generation.prompting import Prompting
from steerlm.generation.prompting import settled as settled
from steerlm.generation.prompting import strip_label_echo as strip_label_echo
from steerlm.generation.requests import Draw
from steerlm.generation.requests import Engine as Engine
from steerlm.generation.requests import Request as Request
from steerlm.generation.requests import Sample as Sample
from steerlm.generation.requests import Sampling as Sampling
from steerlm.generation.requests import said as said
from steerlm.template.conversation_encoder import ConversationEncoder
from steerlm.threads import thread_chooser


class LocalEngine:
    """The in-process engine.

    Attributes:
        schema: the attributes the model was trained with.
        prompting: its prompts and the texts of its responses.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        schema: AttributeSchema,
        batch_size: int = 64,
        spread: int = 1,
    ) -> None:
        """Wrap a loaded model.

        Args:
            model: a causal language model; used as it is, on its device and in its precision.
            tokenizer: with a steerlm chat template installed; its clean-up of spaces is switched off.
            batch_size: most responses decoded together; fewer where the free memory has no room for their cache.
            spread: processes that hold a part of the model each, this one among them.

        Raises:
            UserError: the tokenizer has no template of ours, the model keeps a recurrent state, or no response fits.
        """
        if batch_size < 1:
            raise UserError(f"batch_size must be at least 1, got {batch_size}")
        if model._is_stateful:
            raise UserError(
                f"{model.name_or_path!r} keeps a recurrent state, which the in-process engine cannot batch; "
                "use a model with attention only"
            )
        self.schema = schema
        self._model = model.eval()
        self.prompting = Prompting(tokenizer, schema, model.config)
        self._batch_size = batch_size
        self._spread = spread
        self._threads = thread_chooser(model, "sampling", "steps/s")

    @property
    def encoder(self) -> ConversationEncoder:
        """Builds the prompts and reads the responses."""
        return self.prompting.encoder

    @property
    def context(self) -> int | None:
        """Most tokens of a prompt and its response; None where there is no limit."""
        return self.prompting.context

    @property
    def batch_size(self) -> int:
        """Most responses decoded together."""
        return self._batch_size

    def decoder(self) -> Decoder:
        """Return a decoder for requests that come at any time."""
        return Decoder(
            self._model,
            batch_size=self._batch_size,
            stop_ids=self.prompting.stop_ids,
            online=True,
            threads=self._threads,
        )

    def room(self, request: Request) -> int:
        return self.prompting.room(max(len(lane.prompt) for lane in self.prompting.lanes(request)))

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[list[Sample]]:
        conversations: dict[tuple[object, ...], int] = {}
        groups = []
        for request in requests:
            number = conversations.setdefault(said(request.messages), len(conversations))
            groups.append(self.draws(request, sampling, number))
        for _ in self._decode([row for group in groups for row in group]):
            pass
        return [[self.prompting.sample(row.tokens, row.stopped) for row in group] for group in groups]

    def stream(self, request: Request, sampling: Sampling) -> Iterator[str]:
        [row, *_] = self.draws(request, sampling, 0)
        yield from self.prompting.pieces((row.tokens, row.done) for _ in self._decode([row]))

    def draws(
        self, request: Request, sampling: Sampling, conversation: Hashable, num_logprobs: int | None = None
    ) -> list[Draw]:
        """Return the samples of a request, not decoded yet; see `Prompting.rows`."""
        return self.prompting.draws(request, sampling, conversation, self._batch_size, num_logprobs)

    def _decode(self, rows: list[Draw]) -> Iterator[list[Draw]]:
        return decode_within_memory(
            self._model,
            rows,
            batch_size=self._batch_size,
            stop_ids=self.prompting.stop_ids,
            spread=self._spread,
            threads=self._threads,
        )


def load_engine(path: str | Path, precision: Precision = "auto", batch_size: int = 64, spread: int = 1) -> LocalEngine:
    """Load a steerable checkpoint for sampling, onto the accelerator if there is one.

    Args:
        path: folder written by `train-sft` or `bootstrap`.
        precision: of the weights; auto = bf16 where the device has it (on a CPU: for wide models).
        batch_size: most responses decoded together.
        spread: over so many processes, of which this is one (`generation.spread` starts them).

    Raises:
        UserError: not a steerlm checkpoint, an attribute model, or a damaged one; one that cannot be spread.
    """
    info = steerable(path)
    model = load_causal_lm(path, sampling_precision(precision, path), spread=spread)
    model.to(default_device())
    likeliest_in_fp32(model)
    return LocalEngine(model, load_tokenizer(path), info.schema, batch_size, spread)


def steerable(path: str | Path) -> CheckpointInfo:
    """Return what a checkpoint says of itself.

    Raises:
        UserError: not a steerlm checkpoint, or an attribute model.
    """
    info = load_info(path)
    if info.kind != "sft":
        raise UserError(f"{path} is a {info.kind} attribute model; give a model that train-sft or bootstrap wrote")
    return info
