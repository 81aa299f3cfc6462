"""What scales a model server is told by its endpoint's load; the example of it for KEDA holds."""

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
import pytest
import yaml

from dispatcher.app import Service
from tests.bench.process import ROOT
from tests.dispatcher.api.models import SAID, Model, ended, make_endpoint, model_server, submit_job
from tests.dispatcher.api.talk import connect, make_key

EXAMPLE: Final = ROOT / "deploy" / "dispatcher" / "keda.yaml"
# Of KEDA's resources (keda.sh/v1alpha1), as far as the example uses them: name, type, required.
SCALED: Final[dict[str, tuple[type, bool]]] = {
    "scaleTargetRef": (dict, True),
    "minReplicaCount": (int, False),
    "maxReplicaCount": (int, False),
    "pollingInterval": (int, False),
    "cooldownPeriod": (int, False),
    "triggers": (list, True),
}
# Of its scaler `metrics-api`: every value is a text, and these are numbers.
METRICS: Final = {"url", "valueLocation", "targetValue", "activationTargetValue", "authMode"}
NUMBERS: Final = {"targetValue", "activationTargetValue"}
NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")


@pytest.fixture
async def model() -> AsyncIterator[Model]:
    async with model_server() as model:
        yield model


def resources() -> dict[str, Any]:
    """The example's, by kind."""
    found = list(yaml.safe_load_all(EXAMPLE.read_text("utf-8")))
    for one in found:
        assert set(one) == {"apiVersion", "kind", "metadata", "spec"}
        assert one["apiVersion"] == "keda.sh/v1alpha1"
        assert NAME.fullmatch(one["metadata"]["name"])
    return {one["kind"]: one for one in found}


def trigger() -> dict[str, Any]:
    """The one thing that it scales by."""
    (found,) = resources()["ScaledObject"]["spec"]["triggers"]
    return dict(found)


def value_of(answer: Any, location: str) -> Any:
    """What KEDA reads of an answer: a path of names and numbers."""
    for part in location.split("."):
        answer = answer[int(part)] if isinstance(answer, list) else answer[part]
    return answer


def test_the_example_for_keda_is_what_keda_takes() -> None:
    """Fields, types and references of both resources."""
    found = resources()
    assert set(found) == {"TriggerAuthentication", "ScaledObject"}
    spec = found["ScaledObject"]["spec"]
    assert set(spec) <= set(SCALED)
    for name, (kind, required) in SCALED.items():
        assert isinstance(spec[name], kind) if name in spec else not required
    assert set(spec["scaleTargetRef"]) == {"name"}
    assert 0 <= spec["minReplicaCount"] < spec["maxReplicaCount"]
    used = trigger()
    assert (used["type"], set(used)) == ("metrics-api", {"type", "metadata", "authenticationRef"})
    assert set(used["metadata"]) == METRICS
    assert all(isinstance(one, str) for one in used["metadata"].values())
    assert all(float(used["metadata"][name]) >= 0 for name in NUMBERS)
    assert used["metadata"]["authMode"] == "bearer"
    authentication = found["TriggerAuthentication"]
    assert used["authenticationRef"] == {"name": authentication["metadata"]["name"]}
    (given,) = authentication["spec"]["secretTargetRef"]
    assert (given["parameter"], set(given)) == ("token", {"parameter", "name", "key"})


async def test_what_the_example_asks_for_is_there(
    service: Service, api: httpx.AsyncClient, model: Model
) -> None:
    """Its path, its key's scope and the place of its number: as many calls as there would be with
    room for all, those that run included; none where there is nothing to do."""
    metadata = trigger()["metadata"]
    path = urlsplit(metadata["url"]).path
    name = path.split("/")[3]
    await make_endpoint(api, model, name=name, concurrency=1, adaptive=False)
    async with connect(service, await make_key(api, scopes=["read"])) as keda:

        async def wanted() -> Any:
            answer = await keda.get(path)
            assert answer.status_code == 200, answer.text
            return value_of(answer.json(), metadata["valueLocation"])

        assert await wanted() == 0
        model.go.clear()
        for _ in range(3):
            await submit_job(api, name)
        async with asyncio.timeout(60):
            while not model.received:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert await wanted() == 3
        found = (await keda.get(path)).json()
        assert (found["queued"], found["running"], found["capacity"]) == (2, 1, 1)
        model.go.set()


async def test_an_endpoint_shows_what_its_jobs_took(api: httpx.AsyncClient, model: Model) -> None:
    """p50 and p95 of waits and calls in seconds, and of outputs in bytes, to some 20 %; nothing
    where nothing was measured."""
    made = await make_endpoint(api, model)
    nothing = {"count": 0}
    assert made["measured"] == {"wait": nothing, "run": nothing, "outputBytes": nothing}
    for _ in range(3):
        await ended(api, (await submit_job(api))["id"])
    await make_endpoint(api, model, name="other")

    async def measured() -> dict[str, Any]:
        found: dict[str, Any] = (await api.get("/v1/endpoints/shout")).json()["measured"]
        return found

    async with asyncio.timeout(60):
        while not (found := await measured())["run"]["count"]:  # noqa: ASYNC110
            await asyncio.sleep(0.1)  # figures are kept for a while
    assert all(one["count"] == 3 and one["p50"] <= one["p95"] for one in found.values())
    assert len(SAID) / 1.5 < found["outputBytes"]["p50"] < len(SAID) * 1.5
    assert (await api.get("/v1/endpoints/other")).json()["measured"]["run"] == nothing
