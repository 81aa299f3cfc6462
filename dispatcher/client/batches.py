"""Seeing a batch through: the lines the service had no room for go again, the rest is settled."""

from collections.abc import Generator, Sequence
from typing import Final

from dispatcher.client.call import Call
from dispatcher.client.callbacks import submit_batch
from dispatcher.client.exchange import AGAIN, Patience, backoff_s
from dispatcher.client.results import LineResult

Batch = Generator[tuple[float, Call[list[LineResult]]], list[LineResult], list[LineResult]]
"""Yields how long to wait and what to call, takes its result, returns a result for each line."""

_RETRY_AFTER: Final = "retryAfter"


def batch(lines: Sequence[bytes], patience: Patience) -> Batch:
    """Submit `lines`. Those refused with 429 or 503 are sent again, as often and as long as
    `patience` allows; what they meet last is their result."""
    results: dict[int, LineResult] = {}
    left = list(range(len(lines)))
    tries, wait_s, spent_s = 0, 0.0, 0.0
    while left and tries <= patience.retries and spent_s <= patience.total_s:
        found = yield wait_s, submit_batch([lines[at] for at in left])
        for at, result in zip(left, found, strict=True):
            results[at] = result.after(at + 1 - result.n)
        left = [at for at in left if _again(results[at])]
        tries += 1
        wait_s = max((_wait_s(results[at], tries) for at in left), default=0.0)
        spent_s += wait_s
    return [results[at] for at in range(len(lines))]


def _again(result: LineResult) -> bool:
    return result.error is not None and result.error.status in AGAIN


def _wait_s(result: LineResult, tries: int) -> float:
    asked = None if result.error is None else result.error.details.get(_RETRY_AFTER)
    return float(asked) if isinstance(asked, int | float) and asked >= 0 else backoff_s(tries)
