"""A handler as RunPod's users write them, served by the SDK's own local API server."""

import os
import sys
import time
from typing import Any

import runpod  # type: ignore[import-not-found]  # it lives in an environment of its own

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from marks import mark  # type: ignore[import-not-found]


def handler(job: dict[str, Any]) -> dict[str, Any]:
    given = job["input"]
    is_first = mark("begun", given["prompt"]) == 1
    time.sleep(given.get("seconds", 0) if is_first else 0)  # as most do: nothing else is served
    if given.get("fail"):
        return {"error": "out of memory"}
    mark("ended", given["prompt"])
    return {"said": given["prompt"], "size": 1.10}


runpod.serverless.start({"handler": handler})
