"""A signed test callback to one destination: sent once, stored nowhere."""

from typing import Final

from starlette.responses import Response

from dispatcher import policy
from dispatcher.api import show
from dispatcher.api.call import Call, answer, encode
from dispatcher.api.errors import unavailable
from dispatcher.ids import new_id
from dispatcher.values import Delivery, Destination
from receiver.base.clock import iso

TEST_STATUS: Final = "test"


async def probe(call: Call) -> Response:
    """`POST /v1/destinations/{id}/test`."""
    call.query(())
    call.context.intake.check_ready()
    found = await call.context.store.get_destination(call.tenant, call.path["id"])
    if call.context.probes.locked():
        raise unavailable("too many tests run at once")
    async with call.context.probes:
        delivery = delivery_to(found, call.now_ms)
        outcome = await call.context.engine.probe(delivery)
    return answer(show.probe(outcome, delivery.policy))


def delivery_to(destination: Destination, now_ms: int) -> Delivery:
    """Return a test delivery that no claim holds."""
    test_id = new_id("test", now_ms)
    chosen = policy.load(destination.policy)
    body = {"jobId": test_id, "status": TEST_STATUS, "createdAt": iso(now_ms)}
    return Delivery(
        id=test_id,
        tenant=destination.tenant,
        job_id=test_id,
        destination=destination.id,
        registered=destination.name is not None,
        url=destination.url,
        body=encode(body),
        content_type="application/json",
        headers=destination.headers,
        policy=chosen,
        fence=0,
        attempt=1,
        tries=0,
        created_ms=now_ms,
        expires_ms=now_ms + round(chosen.timeout * 1000),
        high=True,
    )
