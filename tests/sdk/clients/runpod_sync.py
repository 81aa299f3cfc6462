"""RunPod's Python client as its users write it: what each call gave, as JSON on standard output.

`RUNPOD_ENDPOINT_BASE_URL` says where; arguments: the key and the endpoint.
"""

import json
import sys
import time
from typing import Any

import runpod  # type: ignore[import-not-found]  # it lives in an environment of its own

runpod.api_key = sys.argv[1]
endpoint = runpod.Endpoint(sys.argv[2])
found: dict[str, Any] = {}


def until(job: Any, status: str) -> None:
    while job.status() != status:
        time.sleep(0.02)


job = endpoint.run({"input": {"prompt": "hello"}})
found["id"] = job.job_id
found["output"] = job.output(timeout=60)
found["status"] = job.status()
found["run of a plain input"] = endpoint.run({"prompt": "plain"}).output(timeout=60)
found["run_sync"] = endpoint.run_sync({"input": {"prompt": "wait"}}, timeout=60)
found["stream"] = list(endpoint.run({"input": {"prompt": "stream"}}).stream())
found["chunks"] = list(endpoint.run({"input": {"chunks": ["a", {"n": 2}, [3], None, 5]}}).stream())

failing = endpoint.run({"input": {"fail": True}})
until(failing, "FAILED")
found["output of what failed"] = failing.output()

held = endpoint.run({"input": {"hold": True}})
until(held, "IN_PROGRESS")
waiting = [endpoint.run({"input": {"prompt": "late"}}) for _ in range(2)]
found["waiting"] = [one.status() for one in waiting]
found["health"] = endpoint.health()
found["purge"] = endpoint.purge_queue()
for one in waiting:
    until(one, "CANCELLED")
found["cancel"] = held.cancel()
found["cancelled"] = held.status()
print(json.dumps(found))
