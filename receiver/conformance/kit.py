"""Send the cases to a receiver and judge what it made of them."""

import asyncio
import secrets
import time
from collections.abc import Iterable
from typing import Final, Literal, TypeAlias

import httpx

from receiver.conformance.cases import HUGE_BYTES, cases
from receiver.conformance.deliveries import Case, Delivery, Effects, Signer
from receiver.conformance.endpoint import (
    TIMEOUT_S,
    Endpoint,
    KitError,
    Response,
    check_url,
    redacted,
)
from receiver.conformance.judge import BUSY, Finding, Responses, is_failure, judge

Schemes: TypeAlias = Literal["both", "sha256", "standard"]

EFFECTS_WAIT_S: Final = 5.0  # for handlers that run after the response
SETTLE_S: Final = 0.3  # for an effect too many to show itself
COME_BACK_AFTER_S: Final = (0.1, 0.3, 1.0, 3.0)  # a sender waits longer, and tries more often
SPREAD: Final = 1.0  # of deliveries that are sent again, as senders spread theirs
GONE_MAX: Final = 3  # cases without a response, in a row, until the rest is not sent
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
    timeout_s: float = TIMEOUT_S,
    ca_file: str | None = None,
) -> list[Finding]:
    """Return all findings, in the order of the cases. Raises KitError where there is nothing to
    judge: nobody there, or one who refuses the plainest delivery; ValueError for what is no URL;
    SettingError for a `ca_file`, with authorities to trust beside the usual ones, that cannot be
    used.

    `effects_url` answers, for every job of this run, which statuses its handler was handed, in
    order: `{"job": ["completed"], …}`; for `wait_s` handlers may still be at work after the
    last response. Without it the kit sees responses, and no effects. It ends within `GONE_MAX`
    times `timeout_s` after a receiver has stopped answering.
    """
    effects_at = None if effects_url is None else check_url(effects_url)
    signer = Signer(
        secret=secret,
        run=secrets.token_hex(6),
        now_s=lambda: int(time.time()),
        standard=schemes != "sha256",
        sha256=schemes != "standard",
    )
    async with Endpoint(url, timeout_s=timeout_s, ca_file=ca_file) as endpoint:
        await endpoint.reach()
        sent = await _send_all(endpoint, cases(signer, huge_bytes=huge_bytes))
        effects = None
        if effects_at is not None:
            effects = await _effects(endpoint, effects_at, [case for case, _ in sent], wait_s)
    return [judge(case, responses, effects) for case, responses in sent]


async def _send_all(
    endpoint: Endpoint, to_send: Iterable[Case]
) -> list[tuple[Case, list[Responses]]]:
    sent: list[tuple[Case, list[Responses]]] = []
    gone = 0
    for case in to_send:
        responses = await _responses(endpoint, case) if gone < GONE_MAX else []
        if not sent:
            _check_plainest(endpoint, responses[0][-1])
        gone = gone + 1 if any(_is_gone(one) for one in responses) else 0 if responses else gone
        sent.append((case, responses))
    return sent


def _check_plainest(endpoint: Endpoint, response: Response) -> None:
    """Raise KitError: after a valid completion that is refused, nothing else says anything."""
    if isinstance(response, int) and response // 100 == 2:
        return
    did = "did not answer to a valid completion"
    if isinstance(response, int):
        hint = _REFUSALS.get(response, "what does its log say?")
        did = f"answered {response} to a valid completion: {hint}"
    raise KitError(f"{redacted(endpoint.url)} {did}")


async def _responses(endpoint: Endpoint, case: Case) -> list[Responses]:
    if case.at_once:
        count = len(case.deliveries)
        return await asyncio.gather(
            *(_send(endpoint, one, case, spread=n / count) for n, one in enumerate(case.deliveries))
        )
    responses: list[Responses] = []
    for delivery in case.deliveries:
        if delivery.is_cut:
            await endpoint.hang_up(delivery)
            continue
        responses.append(await _send(endpoint, delivery, case))
        if _is_gone(responses[-1]):
            break  # it would be silent again: waiting tells nothing new
    return responses


async def _send(
    endpoint: Endpoint, delivery: Delivery, case: Case, *, spread: float = 0.0
) -> Responses:
    """Send it once; and again after each failure, as any sender does: what must be taken, and what
    was turned away unjudged."""
    responses = [await endpoint.send(delivery)]
    for pause_s in COME_BACK_AFTER_S:
        last = responses[-1]
        if not (is_failure(last) if case.response == "2xx" else last in BUSY):
            break
        await asyncio.sleep(pause_s * (1 + SPREAD * spread))
        responses.append(await endpoint.send(delivery))
    return tuple(responses)


def _is_gone(responses: Responses) -> bool:
    return responses[-1] in ("silent", "unreachable")


async def _effects(
    endpoint: Endpoint, url: httpx.URL, sent: list[Case], wait_s: float
) -> dict[str, Effects]:
    """Return what was handled, once it is what it should be, or after a while; looked at once more
    later, since an effect too many comes late."""
    deadline = time.monotonic() + wait_s
    while time.monotonic() < deadline:
        handled = await endpoint.effects(url)
        if all(handled.get(job, ()) in c.effects for c in sent if c.effects for job in c.jobs):
            break
        await asyncio.sleep(_POLL_S)
    await asyncio.sleep(min(SETTLE_S, wait_s))
    return await endpoint.effects(url)
