"""The operator's questions at night: why does nothing go out, who fails and why, and what became of
what was replayed."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from dispatcher.client import Client
from tests.dispatcher.cli.conftest import Run
from tests.dispatcher.client.running import Running

ONCE = {"attempts": 1}
LATER = {"attempts": 5, "delays": [7_200]}


@contextmanager
def listening(code: list[int]) -> Iterator[str]:
    """A customer that answers with `code[0]`, whatever that is at the moment."""

    class Customer(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(code[0])
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Customer)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def failed(client: Client, url: str, count: int = 1, policy: object = None) -> list[str]:
    """Callbacks whose first attempt has failed: dead, or to be tried again."""
    chosen = ONCE if policy is None else LATER
    ids = [client.submit(f"job_{n}", {}, callback_url=url, policy=chosen).id for n in range(count)]
    for id in ids:
        while not client.get(id).last_error:
            time.sleep(0.01)
    return ids


def test_list_and_show_say_what_is_paused(cli: Run, client: Client, service: Running) -> None:
    """By the destination's name, instead of a time that has passed."""
    client.register_destination("billing", service.hook(200))
    client.change_destination("billing", {"paused": True})
    id = client.submit("job_1", {}, destination="billing").id
    assert "billing is paused" in cli("list").out
    assert "○ waits: billing is paused" in cli("show", id).out
    assert "‖ paused" in cli("destinations", "list").out
    assert "‖ paused" in cli("destinations", "pause", "billing").out


def test_show_says_when_the_next_try_is(cli: Run, client: Client, service: Running) -> None:
    (id,) = failed(client, service.hook(503), policy=LATER)
    assert "waits: next try in 2h" in cli("show", id).out
    assert "http_503 · next try in 2h" in cli("list").out


def test_a_destination_that_refuses_everything_says_so(
    cli: Run, client: Client, service: Running
) -> None:
    """With its code, in the listing and alone; and `show` has a guess."""
    (id,) = failed(client, service.hook(401))
    assert "✗ rejecting (401)" in cli("destinations", "list").out
    alone = cli("destinations", "show", service.hook(401)).out
    assert "✗ rejecting (401)" in alone
    assert "last error" in alone
    assert "has it the secret of this destination?" in cli("show", id).out


def test_show_says_why_a_destination_was_not_reached(cli: Run, client: Client) -> None:
    """What the log alone had."""
    (refused,) = failed(client, "http://127.0.0.1:9/")
    assert "refused: " in cli("show", refused).out
    (unknown,) = failed(client, "http://inside.invalid/")
    assert "dns: " in cli("show", unknown).out


def test_failures_are_grouped_with_a_sample(cli: Run, client: Client, service: Running) -> None:
    """By destination and error; for programs as JSON."""
    ids = failed(client, service.hook(503), 3)
    found = cli("failures")
    assert found.code == 0, found.err
    assert "http_503" in found.out
    assert f"such as {ids[-1]}" in found.out
    assert "replay --status dead --destination" in found.err
    (group,) = cli("failures", "--output", "ndjson").lines
    assert (group["count"], group["error"]) == (3, "http_503")
    assert cli("failures", "--output", "json").json["data"] == [group]
    assert "nothing fails" in cli("failures", "--status", "pending").err


def test_a_replay_says_what_was_delivered_and_what_failed_again(
    cli: Run, client: Client, service: Running
) -> None:
    """Not only that all is on its way again."""
    code = [503]
    with listening(code) as url:
        failed(client, f"{url}/a", 2)
        again = cli("replay", "--status", "dead", "--yes")
        assert again.code == 0
        assert "done: 2 of 2 replayed" in again.out
        assert "2 failed again, for good" in again.out
        code[0] = 200
        good = cli("replay", "--status", "dead", "--yes")
        assert (good.code, "2 delivered" in good.out) == (0, True)


def test_what_waits_is_hurried(cli: Run, client: Client, service: Running) -> None:
    """By filter, and by destination; a single one names the way."""
    code = [503]
    with listening(code) as url:
        (id,) = failed(client, f"{url}/a", policy=LATER)
        refused = cli("replay", id)
        assert refused.code == 1
        assert "replay --status pending --job-id job_0" in refused.err
        code[0] = 200
        hurried = cli("replay", "--status", "pending", "--job-id", "job_0", "--yes")
        assert (hurried.code, "1 delivered" in hurried.out) == (0, True), hurried.err
        code[0] = 503
        failed(client, f"{url}/b", policy=LATER)
        code[0] = 200
        retried = cli("destinations", "retry", url)
        assert (retried.code, "1 delivered" in retried.out) == (0, True), retried.err


def test_a_paused_destination_is_not_retried(cli: Run, client: Client, service: Running) -> None:
    client.register_destination("billing", service.hook(200))
    client.change_destination("billing", {"paused": True})
    refused = cli("destinations", "retry", "billing")
    assert refused.code == 1
    assert "dispatcher destinations resume billing" in refused.err


def test_a_wait_that_ends_says_why(cli: Run, service: Running) -> None:
    """The last error and the next try, not only that it is pending."""
    late = cli(
        *("send", "--job-id", "job_1", "--to", service.hook(503), "--payload", "{}", "--wait"),
        *("--timeout", "2s", "--policy", '{"attempts": 5, "delays": [3600]}'),
    )
    assert late.code == 1
    assert "last error: http_503" in late.err
    assert "next try in" in late.err


@pytest.mark.parametrize("verb", ["show", "pause", "resume", "test", "retry"])
def test_a_url_names_a_destination_wherever_a_name_does(
    cli: Run, client: Client, service: Running, verb: str
) -> None:
    """Most have no name."""
    client.wait(client.submit("job_1", {}, callback_url=service.hook(200)).id, 10)
    ran = cli("destinations", verb, service.hook(200))
    assert ran.code == 0, ran.err


def test_a_new_tenant_is_told(alone: Run, service: Running, environment: pytest.MonkeyPatch,
                              tenant: str) -> None:  # fmt: skip
    """By what makes it; and by a listing that finds nothing since there is none."""
    environment.setenv("DISPATCHER_URL", service.url)
    environment.setenv("DISPATCHER_API_KEY", service.settings.admin_key or "")
    listed = alone("--tenant", tenant, "list")
    assert f"there is no tenant {tenant}" in listed.err
    argv = ("--to", service.hook(200), "--job-id", "job_1", "--payload", "{}")
    sent = alone("--tenant", tenant, "send", *argv)
    assert f"the tenant {tenant} is new" in sent.err
    assert "is new" not in alone("--tenant", tenant, "send", *argv).err
    near = alone("--tenant", f"{tenant}x", "list")
    assert f"did you mean {tenant}?" in near.err
