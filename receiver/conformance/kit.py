"""Sends the cases to a receiver and judges what it made of them."""

import asyncio
import json
import secrets
import time
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

import httpx

from receiver.conformance.cases import HUGE_BYTES, Case, cases
from receiver.conformance.delivery import Delivery, Signer

Grade: TypeAlias = Literal["ok", "wrong", "advice"]
Effects: TypeAlias = dict[str, tuple[str, ...]]  # the statuses handled, by job

TIMEOUT_S: Final = 30.0
EFFECTS_WAIT_S: Final = 5.0  # for handlers that run after the answer
SETTLE_S: Final = 0.3  # for an effect too many to show itself
ANSWER_BYTES_MAX: Final = 16 * 1024 * 1024


class KitError(Exception):
    """The receiver cannot be reached, or its effects cannot be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What a receiver did in one case, and what it should have done."""

    name: str
    should: str
    did: str
    grade: Grade


async def check(
    url: str,
    secret: str,
    *,
    effects_url: str | None = None,
    schemes: Literal["both", "sha256", "standard"] = "both",
    huge_bytes: int = HUGE_BYTES,
    wait_s: float = EFFECTS_WAIT_S,
) -> list[Finding]:
    """All findings, in the order of the cases. Raises KitError.

    ``effects_url`` answers, for every job of this run, which statuses its handler was handed, in
    order: ``{"job": ["completed"], …}``. Without it the kit sees answers, and no effects.
    """
    signer = Signer(
        secret=secret,
        run=secrets.token_hex(6),
        now_s=lambda: int(time.time()),
        standard=schemes != "sha256",
        sha256=schemes != "standard",
    )
    async with httpx.AsyncClient(timeout=TIMEOUT_S, trust_env=False) as http:
        await _reach(http, url)
        sent = [
            (case, await _answers(http, url, case)) for case in cases(signer, huge_bytes=huge_bytes)
        ]
        effects = None
        if effects_url is not None:
            effects = await _effects(http, effects_url, [case for case, _ in sent], wait_s)
    return [_judge(case, answers, effects) for case, answers in sent]


async def _reach(http: httpx.AsyncClient, url: str) -> None:
    try:
        await http.get(url)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise KitError(f"cannot reach {url}: {error or type(error).__name__}") from None


async def _answers(http: httpx.AsyncClient, url: str, case: Case) -> list[int | None]:
    if case.at_once:
        return await asyncio.gather(*(_send(http, url, one) for one in case.deliveries))
    return [await _send(http, url, one) for one in case.deliveries]


def _judge(case: Case, answers: list[int | None], effects: Effects | None) -> Finding:
    right = all(_fits(answer, case) for answer in answers)
    should: str = case.answer
    did = _told(answers)
    if effects is not None and case.effects is not None:
        found = effects.get(case.job or "", ())
        right = right and found in case.effects
        should += f", handled: {_handled(case.effects[0])}"
        did += f", handled: {_handled(found)}"
    grade: Grade = "ok" if right else "advice" if _is_advice(case, answers) else "wrong"
    return Finding(name=case.name, should=should, did=did, grade=grade)


async def _send(http: httpx.AsyncClient, url: str, delivery: Delivery) -> int | None:
    """The status of the answer; None where the connection was closed without one."""
    try:
        request = http.build_request("POST", url, content=delivery.body, headers=delivery.headers)
        answer = await http.send(request, stream=True)
        await answer.aclose()
    except httpx.TransportError:
        return None
    return answer.status_code


def _fits(answer: int | None, case: Case) -> bool:
    if answer is None:
        return case.may_close
    return answer // 100 == (2 if case.answer == "2xx" else 4)


def _is_advice(case: Case, answers: list[int | None]) -> bool:
    """Taking what could be refused is advice; failing over it is wrong."""
    return case.advice and all(answer is not None and answer < 500 for answer in answers)


def _told(answers: list[int | None]) -> str:
    told = ["closed" if answer is None else str(answer) for answer in answers]
    counts = {one: told.count(one) for one in dict.fromkeys(told)}
    return " ".join(one if n == 1 else f"{n}×{one}" for one, n in counts.items())


def _handled(effects: tuple[str, ...]) -> str:
    return "+".join(effects) or "nothing"


async def _effects(http: httpx.AsyncClient, url: str, sent: list[Case], wait_s: float) -> Effects:
    """What was handled: once it is what it should be, or after a while; and then once more, since
    an effect too many comes late."""
    deadline = time.monotonic() + wait_s
    while time.monotonic() < deadline:
        found = await _read_effects(http, url)
        if all(found.get(c.job or "", ()) in c.effects for c in sent if c.effects is not None):
            break
        await asyncio.sleep(0.05)
    await asyncio.sleep(SETTLE_S)
    return await _read_effects(http, url)


async def _read_effects(http: httpx.AsyncClient, url: str) -> Effects:
    try:
        answer = await http.get(url)
        document: Any = json.loads(answer.content[:ANSWER_BYTES_MAX])
        return {job: tuple(str(one) for one in statuses) for job, statuses in document.items()}
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, AttributeError, TypeError):
        raise KitError(f"{url} does not answer {{job: [status, …]}} in JSON") from None
