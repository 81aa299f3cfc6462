"""The receiver in Node.js that customers copy: the conformance kit finds nothing wrong with it."""

import asyncio
import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from receiver.conformance.kit import check
from tests.receiver.deployed import DEPLOY

SECRET = "whsec_dGVzdC10ZXN0LXRlc3QtdGVzdC10ZXN0"
HUGE = 3 * 1024 * 1024  # over its limit of one

# A Map stands for the table: one key, one row. What is in it is what would be handled.
SERVER = """
import { createServer } from "node:http";
import { receive } from %s;
const table = new Map();
const insert = async (jobId, status) => {
  if (table.has(jobId)) return false;
  table.set(jobId, [status]);
  return true;
};
const hook = receive({ secret: %s, insert });
const server = createServer((request, response) => {
  if (request.url !== "/handled") return hook(request, response);
  response.end(JSON.stringify(Object.fromEntries(table)));
});
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
"""


@asynccontextmanager
async def node_server() -> AsyncIterator[str]:
    """Its URL. Node.js is on every CI machine."""
    node = shutil.which("node")
    if node is None and os.environ.get("CI") != "true":
        pytest.skip("there is no Node.js on this machine")
    assert node is not None, "there is no Node.js on this CI machine"
    script = SERVER % (json.dumps((DEPLOY / "receive.mjs").as_uri()), json.dumps(SECRET))
    process = await asyncio.create_subprocess_exec(
        node, "--input-type=module", "-e", script, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        yield f"http://127.0.0.1:{int(await process.stdout.readline())}"
    finally:
        process.terminate()
        await process.wait()


@pytest.mark.parametrize("schemes", ["both", "sha256", "standard"])
async def test_the_kit_finds_nothing_wrong_with_the_receiver_in_node(schemes: str) -> None:
    """Valid, repeated, racing, out of order, forged, stale, malformed and huge: each is handled as
    it must be; all that is left is how JavaScript reads JSON."""
    async with node_server() as url:
        found = await check(
            f"{url}/hook",
            SECRET,
            effects_url=f"{url}/handled",
            schemes=schemes,  # type: ignore[arg-type]  # one of the three
            huge_bytes=HUGE,
            wait_s=0,
        )
    wrong = [one for one in found if one.grade == "wrong"]
    assert wrong == []
    advice = {one.name for one in found if one.grade == "advice"}
    of_javascript = {"two jobIds", "nesting without end", "a number without end"}
    assert advice <= {f"malformed: {name}" for name in of_javascript}
