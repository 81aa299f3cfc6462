"""One question to a status URL, and what its answer says."""

import asyncio
from typing import Final

import httpx

from receiver.guard import kind_of
from receiver.inbox.expectations import Expectation
from receiver.message import Message
from receiver.reconcile.credentials import Credentials
from receiver.verification.identity import Dialect, Identity, identify
from receiver.verification.parse import ParseError

ANSWER_BYTES_MAX: Final = 1024 * 1024  # what a callback may carry, its status answer may
REASON_CHARS_MAX: Final = 300


class AskError(Exception):
    """The question got no answer that says anything of the job; the message says why."""


async def ask(
    client: httpx.AsyncClient,
    expectation: Expectation,
    credentials: Credentials,
    *,
    timeout_s: float,
    now_ms: int,
) -> Message | None:
    """Return the message that ends the job, or None while it goes on. Raises AskError."""
    headers = _headers(expectation, credentials)
    try:
        async with asyncio.timeout(timeout_s):
            body, content_type = await _get(client, expectation.status_url, headers)
    except TimeoutError:
        raise AskError(f"no answer within {timeout_s:g} s") from None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise AskError(f"{type(error).__name__}: {error}"[:REASON_CHARS_MAX]) from None
    identity = read_answer(body, expectation.job_id, expectation.platform)
    if kind_of(identity.job_id, identity.status) != "terminal":
        return None
    return Message(
        source=expectation.source,
        message_id=None,
        body=body,
        content_type=content_type,
        kind="terminal",
        job_id=expectation.job_id,
        job_status=identity.status,
        sent_ms=None,
        received_ms=now_ms,
        platform=identity.platform,
        via="status",
    )


def read_answer(body: bytes, job_id: str, platform: Dialect) -> Identity:
    """Return what an answer says of the job that was asked for. Raises AskError when it names
    another one, or no status: silence about the status is no completion."""
    dialect: Dialect = "auto" if platform == "cerebrium" else platform  # it has no status URLs
    try:
        identity = identify(body, None, dialect=dialect)
    except ParseError as error:
        raise AskError(f"the answer cannot be read: {error.message}") from None
    if identity.job_id != job_id:
        raise AskError("the answer names another job")
    if identity.status is None:
        raise AskError("the answer names no status")
    return identity


async def _get(
    client: httpx.AsyncClient, url: str, headers: dict[str, str]
) -> tuple[bytes, str | None]:
    async with client.stream("GET", url, headers=headers) as answer:
        if answer.status_code != 200:
            raise AskError(f"the status URL answered {answer.status_code}")
        body = bytearray()
        async for chunk in answer.aiter_raw():
            body += chunk
            if len(body) > ANSWER_BYTES_MAX:
                raise AskError(f"the answer is larger than {ANSWER_BYTES_MAX} bytes")
        return bytes(body), answer.headers.get("content-type")


def _headers(expectation: Expectation, credentials: Credentials) -> dict[str, str]:
    headers = {"accept": "application/json", "accept-encoding": "identity"}
    if expectation.credentials is None:
        return headers
    try:
        return {**headers, **credentials(expectation.credentials, expectation.status_url)}
    except KeyError:
        raise AskError(f"there are no credentials named {expectation.credentials}") from None
    except ValueError as error:
        raise AskError(str(error)) from None
    except Exception as error:  # the customer's provider may fail in any way
        raise AskError(f"the credentials cannot be had: {type(error).__name__}") from None
