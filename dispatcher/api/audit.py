"""The audit trail: looking through it, and taking it away."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Final

from starlette.responses import Response
from starlette.types import Receive, Send
from starlette.types import Scope as Asgi

from dispatcher import wire
from dispatcher.api.call import LIMIT_MAX, Call
from dispatcher.api.callbacks import PAGE
from dispatcher.api.errors import to_refusal
from dispatcher.api.json import NDJSON, Lines, encode, respond
from dispatcher.api.route import Operation, Parameter
from dispatcher.audit import ACTIONS, Entry, EntryFilter
from receiver.base.clock import iso, parse_iso
from receiver.base.http import Request, invalid

_VALUE_CHARS_MAX: Final = 256
_TIME: Final = "an ISO-8601 time; without an offset it is UTC"
FILTERS: Final = (
    Parameter(name="action", about=f"One of {', '.join(f'`{name}`' for name in ACTIONS)}."),
    Parameter(name="actor", about="The API key's id, or `service`."),
    Parameter(name="target", about="The id, or the name, of what it was done to."),
    Parameter(name="since", about=f"Done then or later: {_TIME}."),
    Parameter(name="until", about=f"Done before: {_TIME}."),
    Parameter(
        name="all",
        about="`true`: of all tenants and of the platform itself, for platform keys.",
        type=bool,
    ),
)


@Operation(
    "GET",
    "/v1/audit",
    tag="access",
    scope="admin",
    parameters=(*FILTERS, *PAGE),
    responses={200: list[wire.AuditView[str]]},
)
async def search(call: Call) -> Response:
    """Look through the audit trail.

    Newest first: who changed what, from where and why. A tenant's key sees its tenant's.
    """
    chosen = _filter(call)
    listing = call.listing(f"audit\0{chosen}")
    page = await call.context.store.audit_trail(chosen, after=listing.after, limit=listing.limit)
    return respond(listing.page([_view(call, one) for one in page.entries], page.next_id))


@Operation(
    "GET",
    "/v1/audit/export",
    tag="access",
    scope="admin",
    parameters=FILTERS,
    responses={200: NDJSON},
)
async def export(call: Call) -> Response:
    """Take the audit trail away.

    All that matches, newest first, an entry in each line. Where it cannot go on, the last line is
    an error. For one who reads slowly there are the pages of the listing.
    """
    chosen = _filter(call)
    headers = {"Content-Disposition": 'attachment; filename="audit.ndjson"'}
    if call.request.method == "HEAD":  # nothing is read that nobody is sent
        return Response(headers=headers, media_type=NDJSON)
    return _Export(call.request, _pages(call, chosen), headers)


class _Export(Lines):
    """Ends when the client hangs up: nothing was begun that could be half done."""

    def __init__(
        self, request: Request, pieces: AsyncIterator[bytes], headers: dict[str, str]
    ) -> None:
        super().__init__(pieces, headers)
        self._request = request

    async def __call__(self, scope: Asgi, receive: Receive, send: Send) -> None:
        await self._request.while_there(super().__call__(scope, receive, send))


async def _pages(call: Call, chosen: EntryFilter) -> AsyncIterator[bytes]:
    after: str | None = None
    async with call.context.exports.of(call.tenant):
        while True:
            try:
                page = await call.context.store.audit_trail(chosen, after=after, limit=LIMIT_MAX)
            except Exception as error:  # the head has gone: this is the only place to say so
                refusal = to_refusal(error, call.request.id)
                yield encode(refusal.document(call.request.id)) + b"\n"
                return
            yield b"".join(encode(_view(call, one)) + b"\n" for one in page.entries)
            if page.next_id is None:
                return
            after = page.next_id
            await asyncio.sleep(0)  # others' requests, where the client reads as fast as we write


def _filter(call: Call) -> EntryFilter:
    """Return what the query asks for. Raises Refusal (422), and Forbidden."""
    everything = call.query.get("all", "false")
    if everything not in ("true", "false"):
        raise invalid("all", everything, "must be true or false")
    if everything == "true":
        call.principal.require_platform()
    chosen = EntryFilter(
        tenant=None if everything == "true" else call.tenant,
        action=_action(call),
        actor=_text(call, "actor"),
        target=_text(call, "target"),
        since_ms=_time(call, "since"),
        until_ms=_time(call, "until"),
    )
    return chosen if call.principal.tenant is None else _of_this_life(call, chosen)


def _of_this_life(call: Call, chosen: EntryFilter) -> EntryFilter:
    """Return the filter of what was done since the tenant came into being: one of this name may
    have been erased before, and was somebody else's (I9)."""
    known = call.context.access.tenant(call.tenant)
    since_ms = 0 if known is None else known.created_ms
    return replace(chosen, since_ms=max(chosen.since_ms or 0, since_ms))


def _action(call: Call) -> str | None:
    action = call.query.get("action")
    if action is not None and action not in ACTIONS:
        raise invalid("action", action, f"must be one of {', '.join(ACTIONS)}")
    return action


def _text(call: Call, name: str) -> str | None:
    text = call.query.get(name)
    if text is not None and not (1 <= len(text) <= _VALUE_CHARS_MAX and text.isprintable()):
        raise invalid(name, text, f"must have 1 to {_VALUE_CHARS_MAX} printable characters")
    return text


def _time(call: Call, name: str) -> int | None:
    text = call.query.get(name)
    try:
        return None if text is None else parse_iso(text)
    except ValueError:
        raise invalid(name, text, "must be an ISO-8601 time such as 2026-01-31T12:00:00Z") from None


def _view(call: Call, value: Entry) -> wire.AuditView[str]:
    """Return an entry as whoever asks may see it: a tenant is not told where the platform's
    operators are."""
    shown = not value.by_platform or call.principal.tenant is None
    return wire.AuditView(
        id=value.id,
        at=iso(value.at_ms),
        actor=value.actor,
        by_platform=value.by_platform,
        tenant=value.tenant,
        action=value.action,
        target=value.target,
        detail=dict(value.detail),
        reason=value.reason,
        address=value.address if shown else None,
        session=value.session if shown else None,
    )


OPERATIONS: Final = (search, export)
