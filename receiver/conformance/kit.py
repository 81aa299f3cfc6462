"""Sends the cases to a receiver and judges what it made of them."""

import asyncio
import json
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

import httpx

from receiver.conformance.cases import HUGE_BYTES, Case, cases
from receiver.conformance.delivery import Delivery, Signer

Grade: TypeAlias = Literal["ok", "wrong", "advice"]

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
    on_finding: Callable[[Finding], None] = lambda finding: None,
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
    findings = []
    async with httpx.AsyncClient(timeout=TIMEOUT_S, trust_env=False) as http:
        await _reach(http, url)
        for case in cases(signer, huge_bytes=huge_bytes):
            found = await _try(http, url, case, effects_url)
            on_finding(found)
            findings.append(found)
    return findings


async def _reach(http: httpx.AsyncClient, url: str) -> None:
    try:
        await http.get(url)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise KitError(f"cannot reach {url}: {error or type(error).__name__}") from None


async def _try(http: httpx.AsyncClient, url: str, case: Case, effects_url: str | None) -> Finding:
    if case.at_once:
        answers = await asyncio.gather(*(_send(http, url, one) for one in case.deliveries))
    else:
        answers = [await _send(http, url, one) for one in case.deliveries]
    right = all(_fits(answer, case) for answer in answers)
    should: str = case.answer
    did = _told(answers)
    if effects_url is not None and case.job is not None and case.effects is not None:
        effects = await _effects(http, effects_url, case)
        right = right and effects in case.effects
        should += f", handled: {_handled(case.effects[0])}"
        did += f", handled: {_handled(effects)}"
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


async def _effects(http: httpx.AsyncClient, url: str, case: Case) -> tuple[str, ...]:
    """What was handled, once it is what it should be or the time is up."""
    deadline = time.monotonic() + EFFECTS_WAIT_S
    expected = case.effects or ()
    while (found := await _read_effects(http, url, case.job or "")) not in expected:
        if time.monotonic() > deadline or len(found) > len(max(expected, key=len)):
            return found
        await asyncio.sleep(0.05)
    await asyncio.sleep(SETTLE_S)
    return await _read_effects(http, url, case.job or "")


async def _read_effects(http: httpx.AsyncClient, url: str, job: str) -> tuple[str, ...]:
    try:
        answer = await http.get(url)
        document: Any = json.loads(answer.content[:ANSWER_BYTES_MAX])
        return tuple(str(status) for status in document.get(job, ()))
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, AttributeError, TypeError):
        raise KitError(f"{url} does not answer {{job: [status, …]}} in JSON") from None
