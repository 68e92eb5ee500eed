"""Time of a step, in seconds. The formulas and where the assumptions come from: docs/planning.md."""

from __future__ import annotations

from steerlm.planning.architectures import Architecture
from steerlm.planning.devices import Machines
from steerlm.planning.memory import Step, adapter_parameters, cache_bytes_per_token

UTILISATION = 0.4
"""Share of a GPU's dense bf16 speed that training and scoring reach, recomputation included."""

LINK_UTILISATION = 0.7
"""Share of a link's bandwidth that collective operations reach."""

DECODE_UTILISATION = 0.6
"""Share of the memory bandwidth that decoding reaches."""

LAUNCH_S = 0.5e-3
"""Least time of one layer for one token of every sequence on a GPU, whose kernels wait for Python."""

CPU_LAUNCH_S = 0.2e-3
"""The same on a CPU, which computes a small layer in less time than Python takes to ask for it."""

PADDING = 1.05
"""Tokens computed per real token: batches hold rows of similar length."""


def forward_flops(shape: Architecture, mean_length: float, head_share: float) -> float:
    """Return the operations of one token's forward pass.

    Args:
        shape: of the model.
        mean_length: tokens of the sequence it stands in; it attends to half of them on average.
        head_share: share of the tokens whose logits are computed.
    """
    matrices = 2.0 * shape.body
    attention = 2.0 * mean_length * shape.query * shape.layers
    return matrices + attention + 2.0 * shape.embedding * head_share


def training_flops(shape: Architecture, step: Step) -> float:
    """Return the operations that training takes per token, recomputation included."""
    head_share = step.response_share if step.head else 0.0
    forward = forward_flops(shape, step.mean_length, head_share)
    # backward: gradients of inputs and of weights, each as much as the forward pass; frozen weights need none
    backward = forward if step.section.lora is not None else 2 * forward
    again = forward - 2.0 * shape.embedding * head_share if step.section.gradient_checkpointing else 0.0
    return forward + backward + again


def compute_seconds(machines: Machines, flops: float) -> float:
    """Return the time of `flops` operations on one device."""
    device = machines.device
    return flops / (device.flops * (1.0 if device.cpu else UTILISATION))


def training_seconds(shape: Architecture, step: Step, machines: Machines, tokens: float, per_batch: int) -> float:
    """Return the time of training on `tokens` tokens with batches of `per_batch` on every device."""
    batches = tokens * PADDING / per_batch / machines.count
    batch = compute_seconds(machines, training_flops(shape, step) * per_batch)
    total = shape.parameters if step.head else shape.parameters_without_head
    trained = total if step.section.lora is None else adapter_parameters(shape, step.section.lora)
    steps = batches / step.section.gradient_accumulation_steps
    # weight, gradient and two moments are read, weight and moments written, in fp32; bf16 casts write 2 more
    update = trained / step.shards * 30.0 / machines.device.bandwidth
    return batches * max(batch, _sharding_seconds(total, trained, step, machines)) + steps * (
        update + _gradient_seconds(trained, step, machines)
    )


def _sharding_seconds(total: int, trained: int, step: Step, machines: Machines) -> float:
    """Return the communication of one batch with sharded weights; it runs beside the computation."""
    if step.shards == 1:
        return 0.0
    # weights are gathered for the forward and the backward pass, gradients are spread: bf16 all of them
    moved = 2.0 * (2 * total + trained) * (step.shards - 1) / step.shards
    return moved / (machines.slowest_link * LINK_UTILISATION)


def _gradient_seconds(trained: int, step: Step, machines: Machines) -> float:
    """Return the time in which whole copies of the model exchange their fp32 gradients, once per step."""
    if step.shards > 1 or machines.count == 1:
        return 0.0
    return 2.0 * 4.0 * trained * (machines.count - 1) / machines.count / (machines.slowest_link * LINK_UTILISATION)


def scoring_seconds(
    shape: Architecture, machines: Machines, tokens: float, mean_length: float, devices: int = 1
) -> float:
    """Return the time of scoring `tokens` tokens, spread over all devices, `devices` of which share a model."""
    flops = forward_flops(shape, mean_length, 0.0) * tokens * PADDING / machines.count
    return compute_seconds(machines, flops) + _summing_seconds(shape, machines, tokens * PADDING, devices)


def _summing_seconds(shape: Architecture, machines: Machines, tokens: float, devices: int) -> float:
    """Return the time in which the devices that share a model add up their parts: two sums per layer, in bf16."""
    moved = 2 * shape.layers * 2.0 * (devices - 1) / devices * 2.0 * shape.hidden * tokens
    return moved * devices / machines.count / (machines.device.link * LINK_UTILISATION)


def sampling_seconds(
    shape: Architecture,
    machines: Machines,
    answers: float,
    prompt: float,
    answer: float,
    together: int,
    width: float,
    devices: int = 1,
) -> float:
    """Return the time of sampling, spread over all devices.

    Args:
        shape: of the model.
        machines: what it runs on.
        answers: how many.
        prompt: tokens of a prompt.
        answer: tokens of an answer.
        together: answers decoded at a time by one model.
        width: bytes of a weight.
        devices: that share a model.
    """
    device = machines.device
    read = width * shape.parameters + together * (prompt + answer / 2) * cache_bytes_per_token(shape, width)
    one = max(
        read / devices / (device.bandwidth * DECODE_UTILISATION),
        compute_seconds(machines, forward_flops(shape, 2 * (prompt + answer), 1.0) * together / devices),
        shape.layers * (CPU_LAUNCH_S if device.cpu else LAUNCH_S),
    )
    decoding = answers / together * answer * one * devices / machines.count
    decoding += _summing_seconds(shape, machines, answers * answer, devices)
    return decoding + scoring_seconds(shape, machines, answers * prompt, prompt, devices)
