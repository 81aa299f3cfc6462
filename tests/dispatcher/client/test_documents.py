"""The guide's examples of clients for jobs do what they say."""

from typing import Any

import pytest

from dispatcher.client import Client
from tests.dispatcher.client.model import Model
from tests.dispatcher.client.node import CLIENT, run_module
from tests.dispatcher.client.running import Running
from tests.readme.documents import DISPATCHER, block

KEY = "my-first-key"


@pytest.fixture
def key(client: Client, tenant: str, upstream: Model) -> str:
    """A key of a tenant, for which there is the endpoint that the guide names."""
    client.set_endpoint("document-gen", {"url": f"{upstream.url}/echo"})
    return client.create_key(["submit", "read", "operate"], tenant=tenant).key


def mine(text: str, service: Running, key: str) -> str:
    """An example, against the test's service."""
    assert text.count("http://127.0.0.1:8600") == text.count(KEY) == 1
    return text.replace("http://127.0.0.1:8600", service.url).replace(KEY, key)


def test_the_example_in_python_runs(
    service: Running, client: Client, key: str, upstream: Model
) -> None:
    """A job's output, the output at once, and what failed with its last call."""
    failing = f"{upstream.url}/400/no-such-font"
    client.change_endpoint("document-gen", {"url": failing})
    failed = client.submit_job("document-gen", {}, tags={"team": "a"})
    client.wait_job(failed.id)
    client.change_endpoint("document-gen", {"url": f"{upstream.url}/echo"})
    printed = list[Any]()
    text = mine(block(DISPATCHER, "from dispatcher.client import Client, JobFailed"), service, key)
    exec(text, {"print": lambda *words: printed.append(words)})
    assert printed == [
        ("completed", {"pages": 3}),
        ({"pages": 1},),
        (failed.id, "rejected", "answered"),
    ]
    client.change_endpoint("document-gen", {"url": failing})
    printed.clear()
    exec(text, {"print": lambda *words: printed.append(words)})
    assert printed[0] == ("failed", "no-such-font")
    assert (printed[1][0][:4], printed[1][1]) == ("job_", "rejected")


def test_the_example_in_javascript_runs(service: Running, key: str) -> None:
    text = mine(block(DISPATCHER, "import { PostbackClient }"), service, key)
    printed = run_module(text.replace('"./postback.mjs"', repr(CLIENT.as_uri())))
    assert printed == "completed { pages: 3 }\n"
