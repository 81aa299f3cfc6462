"""One real service for all tests of the client; each test has a tenant of its own."""

import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from dispatcher.client import Client
from tests.dispatcher.client.model import Model, model
from tests.dispatcher.client.running import ADMIN_KEY, Running, running, settings_for


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(settings_for(tmp_path_factory.mktemp("service"))) as found:
        yield found


@pytest.fixture
def tenant() -> str:
    return f"t{uuid.uuid4().hex[:12]}"


@pytest.fixture
def client(service: Running, tenant: str) -> Iterator[Client]:
    with Client(service.url, ADMIN_KEY, tenant=tenant) as found:
        yield found


@pytest.fixture
def upstream() -> Iterator[Model]:
    with model() as found:
        yield found


@pytest.fixture
def endpoint(client: Client, upstream: Model) -> Callable[..., str]:
    """Makes an endpoint of a path of the upstream, with these rules, and returns its name; where it
    is `paused`, jobs wait there until it is resumed."""

    def make(path: str = "/echo", *, paused: bool = False, **rules: Any) -> str:
        name = f"e{uuid.uuid4().hex[:12]}"
        client.make_endpoint(name, upstream.url + path, {"body": "raw", **rules})
        if paused:
            client.pause_endpoint(name)
        return name

    return make
