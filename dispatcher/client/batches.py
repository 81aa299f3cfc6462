"""Any number of callbacks in batch requests: cut into batches, and each one seen through."""

from collections.abc import AsyncIterable, AsyncIterator, Generator, Iterable, Iterator, Sequence
from typing import Final

from dispatcher.client.calls.submission import LineResult, Submission, submit_batch
from dispatcher.client.retry import RETRIED, RetryPolicy, backoff_s
from dispatcher.client.transport import Call

# A fifth of the service's smallest default limits on a batch (10,000 lines, 16 MiB): one request
# is soon answered, and a lost response is cheap to ask for again.
LINES_MAX: Final = 500
BYTES_MAX: Final = 2 * 1024 * 1024
_RETRY_AFTER: Final = "retryAfter"

Items = Iterable[Submission | bytes]
AsyncItems = Items | AsyncIterable[Submission | bytes]
Batch = Generator[tuple[float, Call[list[LineResult]]], list[LineResult], list[LineResult]]
"""Yields how long to wait and what to call, takes its result, returns a result for each line."""


def batch(lines: Sequence[bytes], policy: RetryPolicy) -> Batch:
    """Submit `lines`. Those refused with 429 or 503 are sent again, as often and as long as
    `policy` allows; what they meet last is their result."""
    results: dict[int, LineResult] = {}
    left = list(range(len(lines)))
    tries, wait_s, spent_s = 0, 0.0, 0.0
    while left and tries <= policy.retries and spent_s <= policy.total_s:
        replies = yield wait_s, submit_batch([lines[at] for at in left])
        for at, result in zip(left, replies, strict=True):
            results[at] = result.after(at + 1 - result.n)
        left = [at for at in left if _retried(results[at])]
        tries += 1
        wait_s = max((_wait_s(results[at], tries) for at in left), default=0.0)
        spent_s += wait_s
    return [results[at] for at in range(len(lines))]


def _retried(result: LineResult) -> bool:
    return result.error is not None and result.error.status in RETRIED


def _wait_s(result: LineResult, tries: int) -> float:
    retry_after_s = None if result.error is None else result.error.details.get(_RETRY_AFTER)
    if isinstance(retry_after_s, int | float) and retry_after_s >= 0:
        return float(retry_after_s)
    return backoff_s(tries)


class BatchBuilder:
    """Collects encoded callbacks until they fill a batch. A single larger one goes alone."""

    def __init__(self) -> None:
        self._lines: list[bytes] = []
        self._bytes = 0

    def add(self, item: Submission | bytes) -> list[bytes]:
        """Take one more; return the batch that is full without it, or nothing."""
        line = _one_line(item if isinstance(item, bytes) else item.encode())
        full = self._lines and (
            len(self._lines) >= LINES_MAX or self._bytes + len(line) > BYTES_MAX
        )
        batch = self.rest() if full else []
        self._lines.append(line)
        self._bytes += len(line) + 1
        return batch

    def rest(self) -> list[bytes]:
        """Return what has been collected, and begin the next batch."""
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


def batches(items: Items) -> Iterator[list[bytes]]:
    """Yield the encoded `items`, a batch at a time. Raises ValueError for one that is not JSON in
    one line."""
    builder = BatchBuilder()
    for item in items:
        if full := builder.add(item):
            yield full
    if rest := builder.rest():
        yield rest


async def async_batches(items: AsyncItems) -> AsyncIterator[list[bytes]]:
    """Yield as `batches` does, also of what must be iterated with `async for`."""
    if not isinstance(items, AsyncIterable):
        for full in batches(items):
            yield full
        return
    builder = BatchBuilder()
    async for item in items:
        if full := builder.add(item):
            yield full
    if rest := builder.rest():
        yield rest
