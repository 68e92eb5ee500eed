"""Memory of a step, in bytes per device. The formulas and where they come from: docs/planning.md."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from steerlm.config import LoraSection, TrainingSection
from steerlm.planning.architectures import Architecture

RESERVED = 0.1
"""Share of a device's memory left to its context, the allocator's gaps and the communication's buffers."""

PROCESS = 0.85 * 2**30
"""Bytes of a process on a CPU besides: Python and its libraries, compiled kernels, the allocator's gaps."""

TOKENIZER = 1400.0
"""Bytes that an entry of the vocabulary takes on a CPU: in the tokenizer, and in the copy of it that encodes."""

CACHE_COPIES = 2
"""Of the keys and values while sequences enter or leave a batch (`generation.cache_room`)."""

LONGEST_SHARE = 1.5
"""A batch may hold so many times the mean share of response tokens."""

Numbers = Literal["autocast", "bf16", "fp32"]
"""In what activations are computed: bf16 over fp32 weights, bf16 weights (sharded or frozen), or fp32."""

_BLOCK, _KEPT = 1 << 21, 1 << 25  # logits at a time, and exponentials that are kept (`training.head_loss`)
_NF4_BYTES = 0.5 + 0.127 / 8  # 4 bits, and the scales of double quantization (QLoRA, section 3)
_GATHERED_LAYERS = 2  # FSDP2 holds the layer it computes and the next one


@dataclass(frozen=True)
class StepMemory:
    """Bytes per device, by what they hold."""

    weights: float
    gradients: float
    optimizer: float
    copies: float
    activations: float
    logits: float
    gradients_stay: bool = True
    process: float = 0.0

    @property
    def total(self) -> float:
        """The peak: gradients grow while activations go, unless an earlier batch of the step left some or what is freed
        stays with the process (on a CPU)."""
        held = self.weights + self.optimizer + self.copies + self.process
        moving = self.activations + self.logits
        return held + (moving + self.gradients if self.gradients_stay else max(moving, self.gradients))

    @property
    def gib(self) -> float:
        """The peak in GiB."""
        return self.total / 2**30


@dataclass(frozen=True)
class Step:
    """How one batch is trained.

    Attributes:
        section: the recipe's section.
        head: whether there are output embeddings and logits (language model) or not (regression).
        shards: devices over which weights, gradients and optimizer states are spread; 1 = each holds all.
        cpu: on a CPU.
        bf16: whether the device computes in bf16.
        mean_length: tokens of a record.
        response_share: share of the tokens that are trained.
    """

    section: TrainingSection
    head: bool
    shards: int
    cpu: bool
    bf16: bool
    mean_length: float
    response_share: float

    @property
    def numbers(self) -> Numbers:
        """What activations are computed in."""
        if not self.bf16:
            return "fp32"
        return "bf16" if self.shards > 1 or self.frozen_in_bf16 else "autocast"

    @property
    def frozen_in_bf16(self) -> bool:
        """Whether weights that are not trained are held in bf16; on a CPU only those of language models."""
        return self.bf16 and self.section.lora is not None and (self.head or not self.cpu)


def process_memory(shape: Architecture, cpu: bool) -> float:
    """Return what a process takes besides a model, in bytes of the memory that the model has."""
    return PROCESS + TOKENIZER * shape.vocab if cpu else 0.0


def adapter_parameters(shape: Architecture, lora: LoraSection) -> int:
    """Return the trained parameters of LoRA adapters: rank x (input + output) of every matrix that has one."""
    targets = shape.linear_layers()
    wanted = lora.target_modules
    if isinstance(wanted, str):
        chosen = list(targets.values()) if wanted == "all-linear" else [s for n, s in targets.items() if n == wanted]
    else:
        chosen = [size for name, size in targets.items() if name in wanted]
    return shape.layers * lora.rank * sum(width + out for width, out in chosen)


def layer_bytes_per_token(shape: Architecture, numbers: Numbers) -> float:
    """Return what one layer keeps of a token for its backward pass (Llama as Hugging Face computes it)."""
    stream, narrow = {"autocast": (4, 2), "bf16": (2, 2), "fp32": (4, 4)}[numbers]
    # both norms keep their input in fp32 and the normalised vector; in bf16 the cast to fp32 is a copy of its own
    norms = 2 * (4 + stream) * shape.hidden
    # autocast casts the input of every matrix anew; with one precision, matrices share their input
    inputs = (5 if shape.gated else 4) if numbers == "autocast" else 2
    attention = narrow * (3 * shape.query + 2 * shape.key_value)  # query, key, value, its result and that reordered
    feed_forward = narrow * (4 if shape.gated else 2) * shape.intermediate
    return norms + inputs * narrow * shape.hidden + attention + feed_forward


def _lora_bytes_per_token(shape: Architecture, lora: LoraSection) -> float:
    """Return what one layer's adapters keep: with dropout, a mask and the dropped input in fp32 and in bf16."""
    widths = sum(width for width, _ in shape.linear_layers().values())
    return widths * (7.0 if lora.dropout > 0 else 4.0)


def activation_bytes(shape: Architecture, step: Step, tokens: float) -> float:
    """Return what all layers keep of a batch until its backward pass."""
    layer = layer_bytes_per_token(shape, step.numbers)
    if step.section.lora is not None:
        layer += _lora_bytes_per_token(shape, step.section.lora)
    if step.section.gradient_checkpointing:
        # every layer keeps its input; one layer at a time is computed again
        stream = 2 if step.numbers == "bf16" else 4
        return tokens * (shape.layers * stream * shape.hidden + layer)
    return tokens * shape.layers * layer


def training_memory(shape: Architecture, step: Step, tokens: int) -> StepMemory:
    """Return the peak memory of training with batches of `tokens` tokens, padding included."""
    lora = step.section.lora
    total = shape.parameters if step.head else shape.parameters_without_head
    trained = total if lora is None else adapter_parameters(shape, lora)
    weights: float
    if lora is None:
        weights = 4.0 * total / step.shards
    elif lora.quantize_4bit:
        # bitsandbytes' 4-bit weights are not sharded; embeddings are held in fp32
        weights = _NF4_BYTES * shape.body + 4.0 * (total - shape.body) / step.shards + 4.0 * trained
    else:
        weights = (2.0 if step.frozen_in_bf16 else 4.0) * total / step.shards + 4.0 * trained / step.shards
    copies = 0.0
    width = 2.0 if step.bf16 else 4.0
    if step.shards > 1:
        tables = total - shape.body
        copies = width * (_GATHERED_LAYERS * shape.per_layer + tables)
        if lora is None:
            copies += width * (shape.per_layer + tables)  # gradients before they are spread
    elif step.numbers == "autocast" and lora is None:
        copies = 2.0 * (total - (0 if shape.tied and step.head else shape.embedding))  # autocast remembers its casts
    rows = tokens * min(1.0, LONGEST_SHARE * step.response_share) if step.head else 0.0
    logits = _head_bytes(shape, rows, lora is None)
    activations = activation_bytes(shape, step, tokens)
    if step.section.gradient_checkpointing:
        # logits are gone by the time a layer is computed again
        stream = 2 if step.numbers == "bf16" else 4
        kept = tokens * shape.layers * stream * shape.hidden
        logits, activations = max(logits, activations - kept), kept
    return StepMemory(
        weights=weights,
        gradients=4.0 * trained / step.shards,
        optimizer=8.0 * trained / step.shards,
        copies=copies,
        activations=activations,
        logits=logits,
        gradients_stay=step.section.gradient_accumulation_steps > 1 or step.shards > 1 or step.cpu,
        process=process_memory(shape, step.cpu),
    )


def _head_bytes(shape: Architecture, rows: float, trained: bool) -> float:
    """Return what the loss takes at the output layer for `rows` positions: logits of one block at a time, and two
    hidden states in fp32; where the layer is trained, exponentials in bf16, and its gradient beside that of the
    embeddings."""
    logits = rows * shape.vocab
    block = 12.0 * min(logits, _BLOCK) + 8.0 * rows * shape.hidden
    kept = 2.0 * min(logits, _KEPT) + (4.0 * shape.vocab * shape.hidden if shape.tied else 0.0)
    return block + (kept if trained and rows else 0.0)


def cache_bytes_per_token(shape: Architecture, width: float) -> float:
    """Return the bytes that keys and values of one token take in all layers."""
    return 2.0 * shape.layers * shape.key_value * width


def scoring_memory(shape: Architecture, tokens: int, width: float, cpu: bool, devices: int = 1) -> StepMemory:
    """Return the memory of scoring batches of `tokens` tokens with weights of `width` bytes, spread over `devices`."""
    parts = width * (2 * shape.query + 2 * shape.key_value + 3 * shape.intermediate) / devices
    layer = tokens * (2 * 4 * shape.hidden + parts)
    return StepMemory(width * shape.parameters / devices, 0, 0, 0, layer, 0, process=process_memory(shape, cpu))


def sampling_memory(
    shape: Architecture,
    sequences: int,
    length: float,
    width: float,
    cpu: bool,
    devices: int = 1,
    beside: int = 0,
) -> StepMemory:
    """Return the memory of decoding: weights, cache and logits.

    Args:
        shape: of the model.
        sequences: decoded at once, each up to `length` tokens.
        length: tokens of a prompt and its answer.
        width: bytes of a weight.
        cpu: on a CPU.
        devices: that share the model.
        beside: parameters of another model that waits on the same devices for the answers.
    """
    cache = CACHE_COPIES * sequences * length * cache_bytes_per_token(shape, width) / devices
    logits = sequences * shape.vocab * 8.0
    weights = width * (shape.parameters + beside) / devices
    return StepMemory(weights, 0, 0, 0, cache, logits, process=process_memory(shape, cpu))


def sequences_that_fit(most: int, room_gib: float, memory_of: Callable[[int], StepMemory]) -> int:
    """Return how many sequences are decoded at once: as many as fit, at most `most`, at least 1."""
    one, two = memory_of(1).gib, memory_of(2).gib
    return max(1, min(most, 1 + int((room_gib - one) / (two - one))))


def largest_batch(shape: Architecture, step: Step, memory_gib: float, least: int) -> int | None:
    """Return the largest `tokens_per_batch` that fits, a multiple of `least` (None: not even `least` tokens do)."""
    room = memory_gib * (1 - RESERVED) * 2**30

    def fits(tokens: int) -> bool:
        return training_memory(shape, step, tokens).total <= room

    if not fits(least):
        return None
    low, high = 1, 2
    while fits(high * least) and high < 2**20:
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle * least) else (low, middle)
    return low * least
