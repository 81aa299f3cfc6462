"""What many share of something bounded: one that takes much leaves room for the others."""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Final

NOBODY: Final = ""


def may_take(size: int, *, held: int, free: int, share: float) -> bool:
    """Return whether a holder of `held` may take `size` more, of what is `free`. One alone gets
    about `share` of the whole, two that want all get as much of what the other leaves, and so on:
    however many they are, a part stays free, and what is held by nobody is of use to somebody."""
    return size <= free and (held + size) * (1 - share) <= share * free


class Budget:
    """So many of something (bytes, connections), shared by holders: none gets all of it unless
    `share` is 1."""

    def __init__(self, total: int, share: float = 1.0) -> None:
        self._free = total
        self._share = share
        self._held: dict[Hashable, int] = {}

    def take(self, size: int, holder: Hashable = NOBODY) -> bool:
        """Take so many until they are given back; return False where the holder may not."""
        held = self._held.get(holder, 0)
        if not may_take(size, held=held, free=self._free, share=self._share):
            return False
        self._free -= size
        self._held[holder] = held + size
        return True

    def give_back(self, size: int, holder: Hashable = NOBODY) -> None:
        """Give back what was taken. Whoever holds nothing is forgotten."""
        self._free += size
        held = self._held.get(holder, 0) - size
        if held > 0:
            self._held[holder] = held
        else:
            self._held.pop(holder, None)

    @property
    def held(self) -> int:
        """How many are taken, by all together."""
        return sum(self._held.values())


@dataclass(slots=True)
class Tally:
    """How many connections were closed as they came, because there were too many in all or from
    their address, and how many were ended because their peer did not read."""

    refused: int = 0
    cut: int = 0
