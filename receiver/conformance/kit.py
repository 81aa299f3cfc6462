"""Sends the cases to a receiver and judges what it made of them."""

import asyncio
import secrets
import time
from collections.abc import Iterable
from typing import Final, Literal, TypeAlias

import httpx

from receiver.conformance.case import Case, Effects
from receiver.conformance.cases import HUGE_BYTES, cases
from receiver.conformance.delivery import Delivery, Signer
from receiver.conformance.judge import Finding, Sent, is_failure, judge
from receiver.conformance.link import ANSWER_WITHIN_S, Answer, KitError, Link, check_url, shown

Schemes: TypeAlias = Literal["both", "sha256", "standard"]

EFFECTS_WAIT_S: Final = 5.0  # for handlers that run after the answer
SETTLE_S: Final = 0.3  # for an effect too many to show itself
COME_BACK_AFTER_S: Final = (0.1, 0.3, 1.0, 3.0)  # a sender waits longer, and tries more often
SPREAD: Final = 1.0  # of deliveries that are sent again, as senders spread theirs
GONE_MAX: Final = 3  # cases without an answer, in a row, until the rest is not sent
_POLL_S: Final = 0.05
_REFUSALS: Final = {
    401: "is the secret its own?",
    403: "is the secret its own?",
    404: "is that where it takes deliveries?",
    405: "is that where it takes deliveries?",
}


async def check(
    url: str,
    secret: str,
    *,
    effects_url: str | None = None,
    schemes: Schemes = "both",
    huge_bytes: int = HUGE_BYTES,
    wait_s: float = EFFECTS_WAIT_S,
    answer_within_s: float = ANSWER_WITHIN_S,
) -> list[Finding]:
    """All findings, in the order of the cases. Raises KitError where there is nothing to judge:
    nobody there, or one who refuses the plainest delivery; ValueError for what is no URL.

    `effects_url` answers, for every job of this run, which statuses its handler was handed, in
    order: `{"job": ["completed"], …}`; for `wait_s` handlers may still be at work after the
    last answer. Without it the kit sees answers, and no effects. It ends
    within `GONE_MAX` times `answer_within_s` after a receiver has stopped answering.
    """
    effects_at = None if effects_url is None else check_url(effects_url)
    signer = Signer(
        secret=secret,
        run=secrets.token_hex(6),
        now_s=lambda: int(time.time()),
        standard=schemes != "sha256",
        sha256=schemes != "standard",
    )
    async with Link(url, answer_within_s=answer_within_s) as link:
        await link.reach()
        sent = await _send_all(link, cases(signer, huge_bytes=huge_bytes))
        effects = None
        if effects_at is not None:
            effects = await _effects(link, effects_at, [case for case, _ in sent], wait_s)
    return [judge(case, answers, effects) for case, answers in sent]


async def _send_all(link: Link, found: Iterable[Case]) -> list[tuple[Case, list[Sent]]]:
    sent: list[tuple[Case, list[Sent]]] = []
    gone = 0
    for case in found:
        answers = await _answers(link, case) if gone < GONE_MAX else []
        if not sent:
            _check_plainest(link, answers[0][-1])
        gone = gone + 1 if any(_is_gone(one) for one in answers) else 0 if answers else gone
        sent.append((case, answers))
    return sent


def _check_plainest(link: Link, answer: Answer) -> None:
    """Raise KitError: after a valid completion that is refused, nothing else says anything."""
    if isinstance(answer, int) and answer // 100 == 2:
        return
    did = f"answered {answer}" if isinstance(answer, int) else "did not answer"
    hint = _REFUSALS.get(answer, "what does its log say?") if isinstance(answer, int) else ""
    raise KitError(f"{shown(link.url)} {did} to a valid completion{': ' if hint else ''}{hint}")


async def _answers(link: Link, case: Case) -> list[Sent]:
    if case.at_once:
        count = len(case.deliveries)
        return await asyncio.gather(
            *(_send(link, one, case, spread=n / count) for n, one in enumerate(case.deliveries))
        )
    answers: list[Sent] = []
    for delivery in case.deliveries:
        answers.append(await _send(link, delivery, case))
        if _is_gone(answers[-1]):
            break  # who is silent once will be silent again: waiting tells nothing new
    return answers


async def _send(link: Link, delivery: Delivery, case: Case, *, spread: float = 0.0) -> Sent:
    """Once; and what must be taken, again after each failure, as any sender does."""
    answers = [await link.send(delivery)]
    for pause_s in COME_BACK_AFTER_S if case.answer == "2xx" else ():
        if not is_failure(answers[-1]):
            break
        await asyncio.sleep(pause_s * (1 + SPREAD * spread))
        answers.append(await link.send(delivery))
    return tuple(answers)


def _is_gone(answers: Sent) -> bool:
    return answers[-1] in ("silent", "unreachable")


async def _effects(
    link: Link, url: httpx.URL, sent: list[Case], wait_s: float
) -> dict[str, Effects]:
    """Return what was handled: once it is what it should be, or after a while; and then once more,
    since an effect too many comes late."""
    deadline = time.monotonic() + wait_s
    while time.monotonic() < deadline:
        found = await link.effects(url)
        if all(found.get(job, ()) in c.effects for c in sent if c.effects for job in c.jobs):
            break
        await asyncio.sleep(_POLL_S)
    await asyncio.sleep(min(SETTLE_S, wait_s))
    return await link.effects(url)
