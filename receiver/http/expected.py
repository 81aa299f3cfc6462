"""The admin routes for jobs that are waited for: submitters in other processes use them."""

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from receiver.base.clock import iso
from receiver.base.http import Answer, Budget, Refusal, Request
from receiver.base.query import choice, invalid, number, read_query
from receiver.inbox.expectations import EXPECTED, Expectation
from receiver.inbox.inbox import Inbox
from receiver.verification.identity import DIALECTS
from receiver.verification.parse import ParseError, parse

if TYPE_CHECKING:
    from receiver.app import Receiver

BODY_BYTES_MAX: Final = 64 * 1024
LIMIT_MAX: Final = 500
_LIMIT_DEFAULT: Final = 50
_FIELDS: Final = ("jobId", "statusUrl", "by", "credentials", "platform", "source")


async def list_expected(request: Request, inbox: Inbox) -> Answer:
    """`GET /expected?state=&limit=`: newest first."""
    query = read_query(request.query, ("state", "limit"))
    found = await inbox.expectations(
        state=choice(query, "state", EXPECTED),
        limit=number(query, "limit", LIMIT_MAX) or _LIMIT_DEFAULT,
    )
    return Answer(document={"data": [public(expectation) for expectation in found]})


async def expect_job(request: Request, receiver: "Receiver") -> Answer:
    """`POST /expected`: `{"jobId", "statusUrl", "by", "credentials"?, "platform"?, "source"?}`;
    `by` is a time (ISO-8601), or a number of seconds from now."""
    body = await request.body(
        bytes_max=BODY_BYTES_MAX,
        timeout_s=receiver.settings.request_timeout,
        budget=Budget(BODY_BYTES_MAX),
    )
    try:
        document = parse(body)
    except ParseError as error:
        details = {"reason": error.reason}
        raise Refusal(400, "MALFORMED_JSON", error.message, details=details) from None
    if not isinstance(document, dict):
        raise invalid("body", "", "must be an object")
    _check_fields(document)
    try:
        expectation = await receiver.expect(
            document["jobId"],
            document["statusUrl"],
            by=_by(document["by"]),
            credentials=document.get("credentials"),
            platform=document.get("platform", "auto"),
            source=document.get("source"),
        )
    except ValueError as error:
        raise Refusal(422, "VALIDATION_ERROR", str(error)) from None
    return Answer(document=public(expectation))


def public(expectation: Expectation) -> dict[str, Any]:
    """Return an expectation in the words of the API."""
    return {
        "jobId": expectation.job_id,
        "source": expectation.source,
        "state": expectation.state,
        "statusUrl": expectation.status_url,
        "credentials": expectation.credentials,
        "platform": expectation.platform,
        "createdAt": iso(expectation.created_ms),
        "nextAskAt": iso(expectation.ask_ms),
        "asked": expectation.asked,
        "failingSince": iso(expectation.failing_since_ms),
        "lastError": expectation.last_error,
        "settledAt": iso(expectation.settled_ms),
    }


def _check_fields(document: dict[str, Any]) -> None:
    for name, value in document.items():
        if name not in _FIELDS:
            raise invalid(name, "", f"unknown; there are: {', '.join(_FIELDS)}")
        if name != "by" and not isinstance(value, str):
            raise invalid(name, "", "must be a string")
    for name in ("jobId", "statusUrl", "by"):
        if name not in document:
            raise invalid(name, "", "is required")
    choice(document, "platform", DIALECTS)


def _by(value: Any) -> datetime | timedelta:
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return timedelta(seconds=value)
        except (OverflowError, ValueError):
            raise invalid("by", "", "is too large") from None
    try:
        return datetime.fromisoformat(value)
    except (TypeError, ValueError):
        raise invalid("by", str(value), "must be a time with its offset, or seconds") from None
