"""When to send again, and when to give up: no IO, so both clients share it.

Sent again are 429, 503, connections that never came to be, and, for repeatable calls, answers that
were lost. A submit is repeatable because the service knows each callback by its idempotency key
(the `Idempotency-Key` header, else jobId, jobStatus and destination): the second one is answered
with the first one's id, and one delivery goes out.
"""

from collections.abc import Generator
from dataclasses import dataclass
from random import random
from typing import Any, Final

from dispatcher.client.call import Answer, Call, Lost
from dispatcher.client.errors import PostbackError, Unreachable, of_answer

_FIRST_S: Final = 0.1
_MOST_S: Final = 5.0
AGAIN: Final = frozenset({429, 503})

Exchange = Generator[float, Answer | Lost, Answer]
"""Yields how many seconds to wait before sending, takes what came back, returns the good answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """At most `retries` more tries after the first, and none that would end after `total_s`."""

    retries: int = 5
    total_s: float = 60.0


def exchange(call: Call[Any], patience: Patience) -> Exchange:
    """Send `call` until it succeeds. Raises the PostbackError that stands at the end."""
    spent_s = wait_s = 0.0
    tries = 0
    while True:
        reply = yield wait_s
        if isinstance(reply, Answer) and reply.ok:
            return reply
        tries += 1
        wait_s = _wait_s(reply, tries)
        spent_s += reply.elapsed_s + wait_s
        if not _again(call, reply) or tries > patience.retries or spent_s > patience.total_s:
            raise _error(reply)


def poll_s(polls: int) -> float:
    """How long to wait before asking again whether something has ended: quick at first, so that a
    healthy delivery is seen at once, then every second."""
    return min(1.0, 0.02 * 2.0 ** min(polls, 10))


def backoff_s(tries: int) -> float:
    """Doubling waits, spread so that clients do not march."""
    wait_s = min(_MOST_S, _FIRST_S * 2.0 ** min(tries - 1, 16))
    return wait_s * (0.5 + random())  # noqa: S311 - a spread, not a secret


def _again(call: Call[Any], reply: Answer | Lost) -> bool:
    if isinstance(reply, Answer):
        return reply.status in AGAIN
    return call.repeatable or not reply.sent


def _wait_s(reply: Answer | Lost, tries: int) -> float:
    """Return what the service asks for, else what we choose."""
    if isinstance(reply, Answer) and reply.retry_after_s is not None:
        return reply.retry_after_s
    return backoff_s(tries)


def _error(reply: Answer | Lost) -> PostbackError:
    if isinstance(reply, Answer):
        return of_answer(reply)
    return Unreachable("UNREACHABLE", reply.reason)
