"""Server-sent events, as they come in pieces."""

from dataclasses import dataclass
from typing import Final

_LINE_BYTES_MAX: Final = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Event:
    """What one says, its name, and the id by which one goes on behind it, if it has those."""

    data: bytes
    name: str = ""
    id: str | None = None


class EventReader:
    """Makes events of pieces of a stream."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._data: list[bytes] = []
        self._name = b""
        self._id: bytes | None = None

    def feed(self, piece: bytes) -> list[Event]:
        """Return each event that ends in this piece. Raises ValueError for one that never ends, and
        for one that is named `error`: asking again tells why."""
        self._rest += piece
        *lines, rest = self._rest.replace(b"\r\n", b"\n").split(b"\n")
        if len(rest) > _LINE_BYTES_MAX:
            raise ValueError("an event is too long")
        self._rest = rest
        found: list[Event] = []
        for line in lines:
            if line.startswith(b"data:"):
                self._data.append(bytes(line[5:]).removeprefix(b" "))
            elif line.startswith(b"event:"):
                self._name = bytes(line[6:]).strip()
            elif line.startswith(b"id:"):
                self._id = bytes(line[3:]).strip()
            elif not line:
                if self._name == b"error":
                    raise ValueError("the stream ends with an error")
                found += [self._event()] if self._data else []
                self._data, self._name, self._id = [], b"", None
        return found

    def _event(self) -> Event:
        id = None if self._id is None else self._id.decode(errors="replace")
        return Event(b"\n".join(self._data), self._name.decode(errors="replace"), id)
