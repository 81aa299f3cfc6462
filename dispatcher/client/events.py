"""Server-sent events, as they come in pieces."""

from typing import Final

_LINE_BYTES_MAX: Final = 16 * 1024 * 1024


class EventReader:
    """Makes events of pieces of a stream. Of an event its data counts."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._data: list[bytes] = []
        self._name = b""

    def feed(self, piece: bytes) -> list[bytes]:
        """Return the data of each event that ends in this piece. Raises ValueError for one that
        never ends, and for one that is named `error`: asking again tells why."""
        self._rest += piece
        *lines, rest = self._rest.replace(b"\r\n", b"\n").split(b"\n")
        if len(rest) > _LINE_BYTES_MAX:
            raise ValueError("an event is too long")
        self._rest = rest
        found: list[bytes] = []
        for line in lines:
            if line.startswith(b"data:"):
                self._data.append(bytes(line[5:]).removeprefix(b" "))
            elif line.startswith(b"event:"):
                self._name = bytes(line[6:]).strip()
            elif not line:
                if self._name == b"error":
                    raise ValueError("the stream ends with an error")
                found += [b"\n".join(self._data)] if self._data else []
                self._data, self._name = [], b""
        return found
