"""What a storage is where bytes are kept, and what it may meet."""

from typing import Protocol, TypeAlias

from dispatcher.jobs.blobs import CannotKeep

Part: TypeAlias = bytes | bytearray
"""Of one thing that is kept; who hands it over changes it no more."""


class Missing(Exception):
    """Bytes that should be there are not: they were taken away by somebody else."""


class StorageError(CannotKeep):
    """A storage does not take, or does not give, what it should: for our log alone."""

    def __init__(self, reason: str) -> None:
        super().__init__("its output could not be stored")
        self.reason = reason


class Writer(Protocol):
    """Writes the parts of one thing, in order. What it raises is StorageError; then, and where
    nobody calls `finish`, what it wrote is for the sweeper to delete."""

    async def write(self, part: Part, *, synced: bool = False) -> None:
        """Take a part, of which all have the same size but the last. It may be written later; if
        `synced`, one that goes to a disk on which others commit is there when this returns."""

    async def finish(self) -> None:
        """Return once all is on disk."""

    async def abandon(self) -> None:
        """Write no more of it, and let go of what it holds. Raises nothing."""


class Storage(Protocol):
    """Where bytes are kept, by ids."""

    name: str
    """As it stands in the rows of what is kept here."""
    gives_way: bool
    """Whether what is written here and what others commit wait for the same disk."""

    async def open(self) -> None:
        """Raise StorageError unless something can be kept here."""

    def writer(self, id: str, content_type: str) -> Writer:
        """Return what writes one thing."""

    async def read(self, id: str, n: int, step: int, size: int) -> bytes:
        """Return part `n` as it is stored, of `size` bytes, where each but the last has `step`.
        Raises Missing and StorageError."""

    async def delete(self, id: str) -> bool:
        """Delete it, or some of it; return whether all is gone: what is not there is. Raises
        StorageError."""

    async def link(self, id: str, lasting_s: int) -> str | None:
        """Return where anybody may fetch it for so long without us; None where nobody can."""

    async def close(self) -> None:
        """Let go of what is open."""
