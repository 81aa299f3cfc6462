"""Inputs of jobs as they come in: short ones into memory, long ones to where they are kept, as fast
as that takes them, however slowly they come."""

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from dispatcher import ids
from dispatcher.api.call import Call
from dispatcher.api.errors import unavailable
from dispatcher.blobs.spool import Spool
from dispatcher.jobs.blobs import INPUT_INLINE_BYTES_MAX, PART_BYTES, Blob, CannotKeep
from dispatcher.jobs.endpoint import EndpointRules

_HELD_BYTES: Final = 3 * PART_BYTES
"""What a long one has in memory while it comes."""


@dataclass(frozen=True, slots=True)
class Received:
    """An input: its bytes, or of a long one what it is kept as and the id that its job is to
    have."""

    body: bytes = field(repr=False)
    id: str | None = None
    blob: Blob | None = None


@asynccontextmanager
async def received(call: Call, rules: EndpointRules) -> AsyncIterator[Received]:
    """Give the request's body, as an input that goes to its upstream as it is; of a long one what
    it is kept as, until the job that names it is stored. What has to be checked against a schema is
    in memory in any case. Raises Refusal, and what `Request.pieces` raises."""
    settings = call.context.settings
    bytes_max = min(rules.input_max, settings.input_bytes_max)
    if rules.schema is not None or not call.request.is_long(INPUT_INLINE_BYTES_MAX):
        yield Received(await call.body(bytes_max))
        return
    call.request.check_encoding()
    call.request.hold(_HELD_BYTES, call.bodies)
    id = ids.new_job_id(call.now_ms)
    spool = call.context.gateway.blobs.spool(id, call.tenant, "input")
    spool.content_type = call.header(b"content-type") or spool.content_type
    try:
        body = await _read(call, spool, bytes_max)
        yield Received(b"", id, await spool.finish()) if body is None else Received(body)
    except CannotKeep:
        raise unavailable("the input cannot be stored now; try again") from None
    finally:
        await spool.end()


async def _read(call: Call, spool: Spool, bytes_max: int) -> bytes | None:
    """Return a body that turns out to be short; None for one that is in the spool by now."""
    timeout_s, begun = call.context.settings.request_timeout, bytearray()
    async with aclosing(call.request.pieces(bytes_max, timeout_s=timeout_s)) as pieces:
        async for piece in pieces:
            if spool.size:
                await spool.write(piece)
                continue
            begun += piece
            if len(begun) > INPUT_INLINE_BYTES_MAX:
                await spool.write(bytes(begun))
                begun.clear()
    return None if spool.size else bytes(begun)
