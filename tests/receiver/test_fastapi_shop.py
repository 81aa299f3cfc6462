"""The shop in deploy/ fulfils each order once, on real sockets, whatever its platform does."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from receiver.testing import signed_request
from tests.receiver.deployed import load_deployed
from tests.receiver.serving import served
from tests.receiver.waiting import until

SECRET = "whsec_dGVzdC10ZXN0LXRlc3QtdGVzdC10ZXN0"
KEY = "test-platform-key"
READY = {"state": "ready", "url": "https://x/1"}


class Platform:
    """Takes jobs, calls back when it is told to (or at once), and tells a job's status."""

    def __init__(self) -> None:
        self.jobs: list[dict[str, Any]] = []
        self.hurry = False
        self.closed = False
        self.url = ""
        self.app = Starlette(
            routes=[
                Route("/runasync", self._take, methods=["POST"]),
                Route("/jobs/{job}/status", self._status),
            ]
        )

    async def _take(self, request: Request) -> Response:
        assert request.headers["authorization"] == f"Bearer {KEY}"
        if self.closed:
            return Response(status_code=503)
        self.jobs.append(json.loads(await request.body()))
        job = f"job_{len(self.jobs)}"
        if self.hurry:
            assert await self.call_back(job) == "accepted"
        return JSONResponse({"jobId": job, "statusUrl": f"{self.url}/jobs/{job}/status"})

    async def _status(self, request: Request) -> Response:
        assert request.headers["authorization"] == f"Bearer {KEY}"
        return JSONResponse(completion(request.path_params["job"]))

    async def call_back(self, job: str) -> str:
        """Delivers the job's completion to its callback URL, signed; what the shop made of it."""
        asked = self.jobs[int(job.removeprefix("job_")) - 1]
        body = json.dumps({**completion(job), "tags": asked["tags"]}).encode()
        headers = signed_request(body, SECRET, message_id=f"cb_{job}")
        async with httpx.AsyncClient(trust_env=False) as http:
            answer = await http.post(asked["callbackUrl"], content=body, headers=headers)
        return str(answer.json()["status"])


def completion(job: str) -> dict[str, Any]:
    return {"jobId": job, "status": "completed", "output": {"document_url": "https://x/1"}}


class Shop:
    """The deployed module, served; a customer's view of it."""

    def __init__(self, module: ModuleType, platform: Platform, http: httpx.AsyncClient) -> None:
        self.module, self.platform, self.http = module, platform, http

    async def order(self) -> httpx.Response:
        return await self.http.post("/orders", json={"prompt": "a report"})

    async def becomes(self, id: str, expected: dict[str, Any]) -> None:
        async def is_so() -> bool:
            return bool((await self.http.get(f"/orders/{id}")).json() == expected)

        await until(is_so)


@pytest.fixture
async def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Shop]:
    platform = Platform()
    async with served(platform.app) as platform.url:
        environ = {
            "RECEIVER_SECRETS": SECRET,
            "RECEIVER_DATABASE_URL": f"sqlite:///{tmp_path}/inbox.db",
            "SHOP_DATABASE": str(tmp_path / "shop.db"),
            "SHOP_URL": "http://to-be-known",
            "PLATFORM_URL": f"{platform.url}/runasync",
            "PLATFORM_KEY": KEY,
        }
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        module = load_deployed("fastapi_shop")
        async with opened(module, platform) as made:
            yield made


@asynccontextmanager
async def opened(module: ModuleType, platform: Platform) -> AsyncIterator[Shop]:
    async with (
        module.app.router.lifespan_context(module.app),
        served(module.app) as module.SHOP_URL,  # type: ignore[attr-defined]  # known once it listens
        httpx.AsyncClient(base_url=module.SHOP_URL, trust_env=False) as http,
    ):
        yield Shop(module, platform, http)


async def test_an_order_is_fulfilled_once(shop: Shop) -> None:
    """Submitted with its callback URL and its tag; ten copies of the completion are one effect."""
    answer = await shop.order()
    id = answer.json()["id"]
    assert answer.status_code == 202
    assert shop.platform.jobs[0]["tags"] == {"order": id}
    assert (await shop.http.get(f"/orders/{id}")).json() == {"state": "ordered", "url": None}
    verdicts = await asyncio.gather(*(shop.platform.call_back("job_1") for _ in range(10)))
    assert sorted(verdicts) == ["accepted"] + ["duplicate"] * 9
    await shop.becomes(id, READY)


async def test_a_completion_may_be_faster_than_the_answer_to_the_submit(shop: Shop) -> None:
    """The order is found by its tag before it knows its job."""
    shop.platform.hurry = True
    await shop.becomes((await shop.order()).json()["id"], READY)


async def test_a_completion_that_never_comes_is_asked_for(shop: Shop) -> None:
    """At the job's status URL, with the platform's key; found by the job alone."""
    shop.module.PATIENCE = timedelta(0)  # type: ignore[attr-defined]  # a setting of the module
    await shop.becomes((await shop.order()).json()["id"], READY)


async def test_an_order_that_the_platform_refuses_is_told_so(shop: Shop) -> None:
    """And what nobody ordered is unknown."""
    shop.platform.closed = True
    assert (await shop.order()).status_code == 502
    assert shop.module.ask("SELECT state FROM orders") == [("refused",)]
    assert (await shop.http.get("/orders/nobody")).status_code == 404
