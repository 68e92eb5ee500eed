"""A set of 64-bit hashes in 12 to 24 bytes each (a Python set of integers takes about 70)."""

from __future__ import annotations

import hashlib
from array import array


def hash64(*parts: str) -> int:
    """Return a 64-bit hash of the texts, the same on every machine and in every process."""
    state = hashlib.blake2b(digest_size=8)
    for part in parts:
        state.update(part.encode("utf-8", "surrogatepass"))
        state.update(b"\0")
    return int.from_bytes(state.digest(), "big")


class HashSet:
    """A set of integers from 0 to 2**64 - 1 that are uniformly distributed, as hashes are.

    Open addressing with linear probing, at most two thirds full. 0 and 1 count as the same value.
    """

    def __init__(self) -> None:
        self._slots = array("Q", bytes(8 * 1024))
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __contains__(self, value: int) -> bool:
        value = value or 1
        return self._slots[self._find(self._slots, value)] == value

    def add(self, value: int) -> bool:
        """Add a value; returns whether it was new."""
        value = value or 1  # 0 marks an empty slot
        slot = self._find(self._slots, value)
        if self._slots[slot] == value:
            return False
        self._slots[slot] = value
        self._count += 1
        if 3 * self._count > 2 * len(self._slots):
            self._grow()
        return True

    @staticmethod
    def _find(slots: array[int], value: int) -> int:
        """Return the slot that holds the value, or the empty one where it belongs."""
        mask = len(slots) - 1
        slot = value & mask
        while slots[slot] != 0 and slots[slot] != value:
            slot = (slot + 1) & mask
        return slot

    def _grow(self) -> None:
        larger = array("Q", bytes(16 * len(self._slots)))
        for value in self._slots:
            if value:
                larger[self._find(larger, value)] = value
        self._slots = larger
