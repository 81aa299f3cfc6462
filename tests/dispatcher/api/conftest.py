"""A whole service on a real SQLite file, spoken to as a client would."""

from collections.abc import AsyncIterator
from ipaddress import ip_network
from pathlib import Path

import httpx
import pytest

from dispatcher.app import Service
from dispatcher.settings import Settings
from tests.dispatcher.api.talk import ADMIN_KEY, connect


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        database_url=f"sqlite:///{tmp_path}/api.db",
        admin_key=ADMIN_KEY,
        allow_networks=(ip_network("127.0.0.0/8"),),
        request_timeout=0.3,
        payload_bytes_max=100_000,
        batch_bytes_max=500_000,
        batch_lines_max=1_000,
        drain_grace=0.2,
        sweep_interval=0.05,
    )


@pytest.fixture
async def service(settings: Settings) -> AsyncIterator[Service]:
    async with Service(settings) as running:
        yield running


@pytest.fixture
async def api(service: Service) -> AsyncIterator[httpx.AsyncClient]:
    """The API under the platform's bootstrap key."""
    async with connect(service, ADMIN_KEY) as client:
        yield client


@pytest.fixture
async def parked(api: httpx.AsyncClient) -> str:
    """A registered destination whose deliveries stay pending: it is paused."""
    made = await api.post(
        "/v1/destinations", json={"name": "parked", "url": "http://127.0.0.1:9/hook"}
    )
    assert made.status_code == 201, made.text
    paused = await api.patch("/v1/destinations/parked", json={"paused": True})
    assert paused.status_code == 200, paused.text
    return "parked"
