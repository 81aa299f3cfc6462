"""Short requests to upstreams beside the calls of jobs: to stop one, to hear how it is, to have
somebody wake it. By the same ways and guards as calls, each on a connection of its own, and never
sent again by themselves."""

import asyncio
import json
from dataclasses import dataclass
from typing import Any, Final

import aiohttp

from dispatcher import signing
from dispatcher.sending import direct
from dispatcher.sending.egress import UrlRefused, parse_url
from dispatcher.sending.faults import reason_of
from dispatcher.sending.guard import UpstreamGuard
from dispatcher.sending.lasting import Exchange
from dispatcher.sending.request import Request
from dispatcher.sending.resolver import ATTEMPT
from dispatcher.sending.sessions import Sessions
from dispatcher.signing import Secrets
from receiver.base.lack import OwnLack
from receiver.signature import Job

BYTES_MAX: Final = 64 * 1024
"""So much of an answer is read."""
_READ_BYTES: Final = 16 * 1024


@dataclass(frozen=True, slots=True)
class Reply:
    """What was answered, or why nothing was (`fault`, for our own log)."""

    status_code: int | None = None
    body: bytes = b""
    fault: str | None = None

    @property
    def is_well(self) -> bool:
        """Whether it is a success."""
        return self.status_code is not None and 200 <= self.status_code < 300


def telling(
    url: str,
    said: dict[str, Any],
    secrets: Secrets | None,
    *,
    id: str,
    now_ms: int,
    sha256_header: str,
) -> Request:
    """Return a request that tells something in JSON, signed."""
    body = json.dumps(said, separators=(",", ":")).encode()
    headers = [("Content-Type", "application/json")]
    if secrets is not None:
        headers += signing.headers(
            message_id=id,
            body=body,
            secrets=secrets,
            job=Job(),
            now_s=now_ms // 1000,
            sha256_header=sha256_header,
        )
    return Request(method="POST", url=parse_url(url), headers=headers, body=body)


async def ask(opened: Sessions, guard: UpstreamGuard, request: Request, *, limit_s: float) -> Reply:
    """Make a request and return what came of it, in `limit_s` at most. Raises nothing that its peer
    could cause."""
    exchange = Exchange()
    ATTEMPT.set(exchange)
    reply = Reply(fault="no complete answer in time")
    try:
        async with asyncio.timeout(limit_s):
            reply = await _asked(opened, guard, request, exchange)
    except TimeoutError:
        pass
    except (UrlRefused, OwnLack) as error:
        reply = Reply(fault=str(error))
    except Exception as error:  # whatever it met: there is an answer, or none
        reply = Reply(fault=reason_of(error))
    finally:
        await exchange.close()
        exchange.forget()
    return reply


async def _asked(
    opened: Sessions, guard: UpstreamGuard, request: Request, exchange: Exchange
) -> Reply:
    reason = guard.refuses_name(request.url)
    if reason is not None:
        raise UrlRefused(f"{request.url.raw_host} is not allowed: {reason}")
    await guard.look_up(request.url, opened.resolver)
    response = await direct.request(
        opened.fresh, request.method, request.url, request.headers, request.body, exchange
    )
    exchange.response = response
    return Reply(status_code=response.status, body=await _beginning(response.content))


async def _beginning(content: aiohttp.StreamReader) -> bytes:
    body = bytearray()
    while len(body) < BYTES_MAX:
        part = await content.read(min(_READ_BYTES, BYTES_MAX - len(body)))
        if not part:
            break
        body += part
    return bytes(body)
