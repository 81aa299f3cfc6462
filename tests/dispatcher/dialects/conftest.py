"""A whole service on a real SQLite file, as the dialects' clients find it: with an endpoint and the
model behind it."""

from collections.abc import AsyncIterator
from ipaddress import ip_network
from pathlib import Path

import httpx
import pytest

from dispatcher.app import Service
from dispatcher.settings import Settings
from tests.dispatcher.api.models import Model, model_server
from tests.dispatcher.api.talk import ADMIN_KEY, connect
from tests.receiver.serving import served

SECRET = "whsec_dGVzdC1zZWNyZXQtb2YtdGhpcnR5LXR3by1ieXRlcyE="


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        database_url=f"sqlite:///{tmp_path}/dialects.db",
        admin_key=ADMIN_KEY,
        signing_secret=SECRET,
        allow_networks=(ip_network("127.0.0.0/8"),),
        drain_grace=0.2,
        job_drain=0.2,
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
async def url(service: Service) -> AsyncIterator[str]:
    """Where the service is behind the real server."""
    async with served(service.api) as url:
        yield url


@pytest.fixture
async def model() -> AsyncIterator[Model]:
    async with model_server() as model:
        yield model
