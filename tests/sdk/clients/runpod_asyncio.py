"""RunPod's Python client for asyncio as its users write it: what each call gave, as JSON on
standard output.

`RUNPOD_ENDPOINT_BASE_URL` says where; arguments: the key and the endpoint.
"""

import asyncio
import json
import sys
from typing import Any

import runpod  # type: ignore[import-not-found]  # it lives in an environment of its own
from runpod import AsyncioEndpoint
from runpod.http_client import AsyncClientSession  # type: ignore[import-not-found]


async def until(job: Any, status: str) -> None:
    while await job.status() != status:  # noqa: ASYNC110
        await asyncio.sleep(0.02)


async def main() -> dict[str, Any]:
    runpod.api_key = sys.argv[1]
    found: dict[str, Any] = {}
    async with AsyncClientSession() as session:
        endpoint = AsyncioEndpoint(sys.argv[2], session)
        job = await endpoint.run({"prompt": "hello"})
        found["id"] = job.job_id
        found["output"] = await job.output(timeout=60)
        found["status"] = await job.status()
        streaming = await endpoint.run({"prompt": "stream"})
        found["stream"] = [one async for one in streaming.stream()]
        chunked = await endpoint.run({"chunks": ["a", {"n": 2}, [3], None, 5]})
        found["chunks"] = [one async for one in chunked.stream()]

        failing = await endpoint.run({"fail": True})
        await until(failing, "FAILED")
        found["output of what failed"] = await failing.output(timeout=60)

        held = await endpoint.run({"hold": True})
        await until(held, "IN_PROGRESS")
        waiting = [await endpoint.run({"prompt": "late"}) for _ in range(2)]
        found["waiting"] = [await one.status() for one in waiting]
        found["health"] = await endpoint.health()
        found["purge"] = await endpoint.purge_queue()
        for one in waiting:
            await until(one, "CANCELLED")
        found["cancel"] = await held.cancel()
        found["cancelled"] = await held.status()
    return found


print(json.dumps(asyncio.run(main())))
