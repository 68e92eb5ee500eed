"""Devices that a run is planned for: public specifications, or this machine as measured now."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from steerlm.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from steerlm.config import LoraSection
    from steerlm.planning.architectures import Architecture

GPUS_PER_NODE = 16


@dataclass(frozen=True)
class Device:
    """One accelerator, or a whole CPU.

    Attributes:
        name: for tables.
        memory_gib: its memory.
        flops: dense bf16 matrix operations per second with fp32 accumulation; of a CPU, what training a layer reaches.
        bandwidth: bytes per second from its memory.
        link: bytes per second to another device of the same node, one direction.
        network: bytes per second to another node, its share of the node's network.
        cpu: whether it is a CPU, whose figures are measured.
    """

    name: str
    memory_gib: float
    flops: float
    bandwidth: float
    link: float
    network: float
    cpu: bool = False


# Memory, dense bf16 and bandwidth: NVIDIA's data sheets (SXM where there is one; GeForce: the Ada white paper). Links:
# NVLink 4 and 3, PCIe 4.0 x16. Network: a DGX's 8 x 400 Gb/s (H100, H200) or 8 x 200 Gb/s (A100); 200 and 100 Gb/s
# per node of eight are assumed for L40S and RTX 4090.
DEVICES = {
    device.name: device
    for device in (
        Device("H100", 80, 989e12, 3.35e12, 450e9, 50e9),
        Device("H200", 141, 989e12, 4.8e12, 450e9, 50e9),
        Device("A100-40GB", 40, 312e12, 1.555e12, 300e9, 25e9),
        Device("A100-80GB", 80, 312e12, 2.039e12, 300e9, 25e9),
        Device("L40S", 48, 362e12, 0.864e12, 32e9, 3.1e9),
        Device("RTX4090", 24, 165e12, 1.008e12, 32e9, 1.6e9),
    )
}
_ALIASES = {"A100": "A100-80GB", "4090": "RTX4090", "A100-40": "A100-40GB", "A100-80": "A100-80GB"}


@dataclass(frozen=True)
class Machines:
    """What a run has.

    Attributes:
        device: of every process.
        per_node: devices in a node.
        nodes: how many nodes.
    """

    device: Device
    per_node: int = 1
    nodes: int = 1

    @property
    def count(self) -> int:
        """Devices in all."""
        return self.per_node * self.nodes

    @property
    def slowest_link(self) -> float:
        """Bytes per second that a device sends to the next one in a ring over all of them."""
        return self.device.network if self.nodes > 1 else self.device.link

    @property
    def estimated(self) -> bool:
        """Whether the device's figures are those of its data sheet; others were measured where they are used."""
        return self.device in DEVICES.values()

    def __str__(self) -> str:
        nodes = f"{self.nodes} nodes of " if self.nodes > 1 else ""
        return self.device.name if self.count == 1 else f"{nodes}{self.per_node} x {self.device.name}"


def parse_gpus(text: str, nodes: int = 1) -> Machines:
    """Read `8xH100`: devices in each node, and what they are.

    Raises:
        UserError: not of that form, an unknown device, or more than a node holds.
    """
    found = re.fullmatch(r"(\d+)\s*x\s*(.+)", text.strip(), re.IGNORECASE)
    if found is None:
        raise UserError(f"--gpus {text!r} is not of the form COUNTxDEVICE, for example 8xH100")
    count, name = int(found.group(1)), found.group(2).strip().upper().replace(" ", "")
    name = _ALIASES.get(name, name)
    if name not in DEVICES:
        raise UserError(f"--gpus {text!r}: unknown device {name!r}: {did_you_mean(name, list(DEVICES))}")
    if nodes < 1:
        raise UserError(f"--nodes must be at least 1, got {nodes}")
    if not 1 <= count <= GPUS_PER_NODE:
        raise UserError(
            f"--gpus {text!r} are the devices of one node, 1 to {GPUS_PER_NODE}; more nodes: --gpus 8x{name} --nodes N"
        )
    return Machines(DEVICES[name], count, nodes)


def this_machine(shape: Architecture | None = None, lora: LoraSection | None = None) -> Machines:
    """Return this machine's devices; a CPU's speed is measured now: training a layer of a model of `shape`, with these
    adapters or whole."""
    import torch

    from steerlm.planning.measuring import copy_speed, layer_speed, matrix_speed

    if not torch.cuda.is_available():
        return Machines(Device("CPU", _cpu_memory_gib(), layer_speed(shape, lora), copy_speed(), 1e9, 1e9, True))
    name = torch.cuda.get_device_name()
    memory = torch.cuda.get_device_properties(0).total_memory / 2**30
    for key, device in DEVICES.items():
        if key.split("-")[0].removeprefix("RTX") in name.replace(" ", "") and abs(device.memory_gib / memory - 1) < 0.2:
            return Machines(device, torch.cuda.device_count())
    # a device that is not in the table: what it measures stands for its specification
    speed = matrix_speed(8192)
    return Machines(Device(name, memory, speed, 1e12, 32e9, 1e9), torch.cuda.device_count())


class DeviceMemory(NamedTuple):
    """The memory of one device of this machine."""

    gib: float
    cpu: bool


def memory_here() -> DeviceMemory:
    """Return the memory that a model can have on this machine; nothing is measured."""
    import torch

    if not torch.cuda.is_available():
        return DeviceMemory(_cpu_memory_gib(), True)
    return DeviceMemory(torch.cuda.get_device_properties(0).total_memory / 2**30, False)


def _cpu_memory_gib() -> float:
    import os

    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30)
