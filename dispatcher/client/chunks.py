"""Cutting many callbacks into batch requests."""

from dispatcher.client.callbacks import Submission

# A fifth of the service's smallest default limits on a batch (10,000 lines, 16 MiB): one request
# is soon answered, and a lost answer is cheap to ask for again.
LINES_MAX = 500
BYTES_MAX = 2 * 1024 * 1024


class Chunker:
    """Collects encoded callbacks until they fill a batch. A single larger one goes alone."""

    def __init__(self, *, lines_max: int = LINES_MAX, bytes_max: int = BYTES_MAX) -> None:
        self._lines_max = lines_max
        self._bytes_max = bytes_max
        self._lines: list[bytes] = []
        self._bytes = 0

    def add(self, item: Submission | bytes) -> list[bytes]:
        """Take one more; returns the batch that is full without it, or nothing."""
        line = _one_line(item if isinstance(item, bytes) else item.encode())
        full = self._lines and (
            len(self._lines) >= self._lines_max or self._bytes + len(line) > self._bytes_max
        )
        batch = self.rest() if full else []
        self._lines.append(line)
        self._bytes += len(line) + 1
        return batch

    def rest(self) -> list[bytes]:
        """Return what has been collected, which starts anew."""
        batch, self._lines, self._bytes = self._lines, [], 0
        return batch


def _one_line(text: bytes) -> bytes:
    """Line breaks can stand only between JSON's tokens, where a space means the same. Inside a
    payload given as bytes that changes bytes, so it is refused: submit those one by one."""
    line = text.strip()
    if b"\n" in line:
        raise ValueError("a callback of a batch must be JSON in one line; submit it by itself")
    if not line:
        raise ValueError("a callback of a batch must not be empty")
    return line
