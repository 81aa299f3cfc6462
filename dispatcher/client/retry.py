"""When to send again, and when to give up: no IO, so both clients share it.

Sent again are 429, 503, connections that never came to be, and, for repeatable calls, responses
that were lost: to us, or to a proxy between us, which says so with 502 or 504. A submit is
repeatable because the service knows each callback by its idempotency key (the `Idempotency-Key`
header, else jobId, jobStatus, destination and run): the second one is answered with the first one's
id, and one delivery goes out. Of a job the key is the header's, which each submit has. 502 and 504
are also how the service tells the end of a job that was waited for: those are final.
"""

from collections.abc import Generator
from dataclasses import dataclass, replace
from random import Random
from typing import Any, Final

from dispatcher.client.errors import PostbackError, Unreachable, error_of, is_final
from dispatcher.client.transport import TIMEOUT_S, Call, Response, TransportError

_RANDOM: Final = Random()  # noqa: S311 - jitter, not a secret
_BACKOFF_FIRST_S: Final = 0.1
_BACKOFF_MAX_S: Final = 5.0
RETRIED: Final = frozenset({429, 503})
_LOST: Final = frozenset({502, 504})
_TRY_S_MIN: Final = 0.05
HOLD_S: Final = 25  # how long one answer to a wait is held: many proxies cut after 30 or 60
LAST_LOOK_S: Final = 0.5  # for a wait whose time is over before it has seen anything

Exchange = Generator[float, Response | TransportError, Response]
"""Yields how many seconds to wait before sending, takes what came back, returns the response of a
success."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """At most `retries` more tries after the first, and none that would end after `total_s`. The
    first may take `timeout_s`, each further one as long while that fits."""

    retries: int = 5
    total_s: float = 60.0
    timeout_s: float = TIMEOUT_S

    def within(self, left_s: float) -> "RetryPolicy":
        """Return the policy of a call that must have ended after `left_s`."""
        return replace(
            self, total_s=min(self.total_s, left_s), timeout_s=min(self.timeout_s, left_s)
        )

    def holding(self, hold_s: float) -> "RetryPolicy":
        """Return the policy of a call whose answer may be held for so long."""
        return replace(self, total_s=self.total_s + hold_s, timeout_s=self.timeout_s + hold_s)

    def next_try_s(self, spent_s: float) -> float:
        """Return how long a further try may take when `spent_s` have gone by."""
        return max(_TRY_S_MIN, min(self.timeout_s, self.total_s - spent_s))


def exchange(call: Call[Any], policy: RetryPolicy) -> Exchange:
    """Send `call` until it succeeds. Raises the PostbackError of the last try, from a TimeoutError
    where only time was missing for another one."""
    spent_s = wait_s = 0.0
    tries = 0
    while True:
        reply = yield wait_s
        if isinstance(reply, Response) and reply.ok:
            return reply
        tries += 1
        wait_s = _wait_s(reply, tries)
        spent_s += reply.elapsed_s + wait_s
        if not _retried(call, reply):
            raise _error(call, reply)
        if spent_s > policy.total_s:
            raise _error(call, reply) from TimeoutError("there is no time for another try")
        if tries > policy.retries:
            raise _error(call, reply)


def poll_s(polls: int) -> float:
    """Return how long to wait before asking again whether something has ended: short at first, so
    that a healthy delivery is seen at once, then a second."""
    return min(1.0, 0.02 * 2.0 ** min(polls, 10))


def backoff_s(tries: int) -> float:
    """Return a wait that doubles with each try, with jitter of half of it up and down."""
    wait_s = min(_BACKOFF_MAX_S, _BACKOFF_FIRST_S * 2.0 ** min(tries - 1, 16))
    return wait_s * (0.5 + _RANDOM.random())


def _retried(call: Call[Any], reply: Response | TransportError) -> bool:
    if isinstance(reply, Response):
        is_lost = call.repeatable and reply.status in _LOST and not is_final(reply)
        return reply.status in RETRIED or is_lost
    return call.repeatable or not reply.sent


def _wait_s(reply: Response | TransportError, tries: int) -> float:
    """Return what the service asks for, else what we choose."""
    if isinstance(reply, Response) and reply.retry_after_s is not None:
        return reply.retry_after_s
    return backoff_s(tries)


def _error(call: Call[Any], reply: Response | TransportError) -> PostbackError:
    if isinstance(reply, Response):
        return error_of(reply, call.errors)
    return Unreachable("UNREACHABLE", reply.reason)
