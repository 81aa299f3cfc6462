"""`dispatcher jobs`, against a real service that calls a real upstream."""

import io
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import pytest

from dispatcher.cli.job_watch import wait_words
from dispatcher.client import Client
from dispatcher.jobs.looks import WaitReason
from tests.dispatcher.cli.conftest import Run
from tests.dispatcher.client.model import Model, model
from tests.dispatcher.client.running import Running

Make = Callable[..., str]


@pytest.fixture
def upstream() -> Iterator[Model]:
    with model() as found:
        yield found


@pytest.fixture
def endpoint(client: Client, upstream: Model) -> Make:
    """Makes an endpoint of a path of the upstream; endpoints are everybody's."""

    def make(path: str = "/echo", **rules: Any) -> str:
        name = f"e{uuid.uuid4().hex[:12]}"
        client.make_endpoint(name, upstream.url + path, {"body": "raw", **rules})
        return name

    return make


def test_a_job_is_submitted_and_waited_for(cli: Run, endpoint: Make) -> None:
    """Exit 0 once it is completed; show tells its story, output has its bytes and nothing else."""
    name = endpoint()
    made = cli("jobs", "submit", name, "--input", '{"b": 1.50,  "a": 2}', "--tag", "team=a",
               "--priority", "high", "--wait")  # fmt: skip
    assert made.code == 0, made.err
    assert "● completed" in made.out
    assert "● call 1  answered 200" in made.out
    assert "team=a" in made.out
    (job,) = cli("jobs", "list", "--endpoint", name, "--json").lines
    assert cli("jobs", "output", job["id"]).out == '{"b": 1.50,  "a": 2}'
    assert cli("jobs", "input", job["id"]).out == '{"b": 1.50,  "a": 2}'
    shown = cli("jobs", "show", job["id"], "--json").json
    assert shown["job"]["output"] == {"a": 2, "b": 1.5}
    assert len(shown["history"]["data"]) == 1
    assert job["id"] in cli("jobs", "show", job["id"]).out
    waited = cli("jobs", "wait", job["id"], "--json")
    assert (waited.code, waited.json["status"]) == (0, "completed")


def test_an_endpoint_shows_what_its_jobs_took(cli: Run, endpoint: Make) -> None:
    """p50 and p95 of how long jobs waited and ran, and of how much they brought; nothing of one
    that had none."""
    name = endpoint()
    assert "p50" not in cli("endpoints", "show", name).out
    assert cli("jobs", "submit", name, "--input", '{"b": 1}', "--wait").code == 0
    ends_s = time.monotonic() + 60
    while "p50" not in (shown := cli("endpoints", "show", name).out):  # figures are kept a while
        assert time.monotonic() < ends_s
        time.sleep(0.2)
    lines = {one.split()[0]: one for one in shown.splitlines() if "p50" in one}
    assert set(lines) == {"wait", "run", "output"}
    assert all(one.endswith("of 1") and ", p95 " in one for one in lines.values())
    assert " B, p95 " in lines["output"]


def test_an_input_may_be_a_file_of_any_type(cli: Run, endpoint: Make, tmp_path: Path) -> None:
    """With its type; without one it must be JSON. An output goes to a file too."""
    name = endpoint()
    file = tmp_path / "cat.png"
    file.write_bytes(b"\x89PNG\xff\x00")
    assert cli("jobs", "submit", name, "--input", str(file)).code == 2
    made = cli("jobs", "submit", name, "--input", str(file), "--content-type", "image/png",
               "--json").json  # fmt: skip
    assert (made["status"], made["duplicate"]) == ("queued", False)
    waited = cli("jobs", "wait", made["id"])
    assert f"  6 B of image/png:\n  dispatcher jobs output {made['id']}\n" in waited.out
    copy = tmp_path / "copy.png"
    assert cli("jobs", "output", made["id"], "-o", str(copy)).code == 0
    assert copy.read_bytes() == file.read_bytes()
    assert cli("jobs", "output", made["id"], "-o", str(tmp_path)).code == 2
    assert cli("jobs", "submit", name, "--input", "none.png", "--content-type", "x/y").code == 2
    assert cli("jobs", "submit", name, "--to", "https://a.test", "--destination", "b").code == 2


def test_a_job_that_fails_says_why(cli: Run, endpoint: Make) -> None:
    """Exit 1, with the upstream's own words, and what to type next."""
    name = endpoint("/400/no-such-font")
    failed = cli("jobs", "submit", name, "--wait")
    assert failed.code == 1
    assert "✗ failed  rejected" in failed.out
    assert "no-such-font" in failed.out
    (job,) = cli("jobs", "list", "--status", "failed", "--end-reason", "rejected", "--json").lines
    assert f"dispatcher jobs retry {job['id']}" in failed.out
    assert cli("jobs", "output", job["id"]).out == "no-such-font"
    listed = cli("jobs", "list").out
    assert "rejected 400" in listed
    assert job["id"] in listed


def test_a_wait_that_is_too_short_says_what_to_type(cli: Run, endpoint: Make) -> None:
    """The job goes on, and is shown as what it waits for."""
    waited = cli("jobs", "submit", endpoint("/hold"), "--wait", "--timeout", "0.2")
    assert waited.code == 1
    assert "is still" in waited.err
    assert "jobs show ID" in " ".join(waited.err.split())
    (job,) = cli("jobs", "list", "--json").lines
    assert "a call runs now" in cli("jobs", "show", job["id"]).out
    assert cli("jobs", "cancel", job["id"]).out.strip() == f"{job['id']}  – cancelled"


def test_jobs_are_cancelled_and_run_again_by_id(cli: Run, client: Client, endpoint: Make) -> None:
    """One that fails does not stop the rest."""
    name = endpoint()
    client.pause_endpoint(name)
    ids = [client.submit_job(name, n).id for n in range(2)]
    told = cli("jobs", "show", ids[0]).out
    assert "waits: its endpoint is paused; number 1 in its queue" in told
    done = cli("jobs", "cancel", *ids, "job_unknown", "--reason", "by mistake")
    assert (done.code, done.out.count("– cancelled")) == (1, 2)
    assert "job_unknown" in done.err
    client.resume_endpoint(name)
    again = cli("jobs", "retry", *ids)
    assert again.code == 0, again.err
    assert again.out.count("run 2") == 2
    assert all(client.wait_job(id).completed for id in ids)
    assert cli("jobs", "retry", ids[0]).code == 1
    assert cli("jobs", "retry", ids[0], "--force").code == 0


def test_all_that_filters_match_is_previewed_and_changed(
    cli: Run, client: Client, endpoint: Make
) -> None:
    """A dry run changes nothing; without a terminal it takes --yes."""
    name = endpoint()
    client.pause_endpoint(name)
    made = [client.submit_job(name, n, tags={"team": "a"}).id for n in range(3)]
    preview = cli("jobs", "cancel", "--endpoint", name, "--tag", "team=a", "--dry-run")
    assert f"3 match endpoint={name} tag.team=a" in preview.out
    assert all(id in preview.out for id in made)
    assert cli("jobs", "cancel", "--endpoint", name, "--dry-run", "--json").json["matched"] == 3
    assert cli("jobs", "cancel", "--endpoint", name).code == 2
    assert [one.status for one in client.jobs()] == ["queued"] * 3
    done = cli("jobs", "cancel", "--endpoint", name, "--yes")
    assert done.code == 0, done.err
    assert "completed: 3 of 3" in done.out
    client.resume_endpoint(name)
    again = cli("jobs", "retry", "--status", "cancelled", "--yes", "--json").json
    assert (again["what"], again["state"], again["done"]) == ("retry", "completed", 3)
    started = cli("jobs", "retry", "--status", "cancelled", "--yes", "--no-wait")
    assert " of 0" in started.out
    assert all(client.wait_job(id).completed for id in made)


class Terminal(io.StringIO):
    """Somebody who types."""

    def isatty(self) -> bool:
        return True


def test_a_change_of_many_asks_and_a_no_changes_nothing(
    cli: Run, client: Client, endpoint: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a terminal the preview comes first; where nothing matches nothing is asked."""
    name = endpoint()
    client.pause_endpoint(name)
    made = client.submit_job(name, 1)
    monkeypatch.setattr("sys.stdin", Terminal("n\n"))
    refused = cli("jobs", "cancel", "--endpoint", name)
    assert (refused.code, made.id in refused.out) == (1, True)
    assert client.get_job(made.id).status == "queued"
    monkeypatch.setattr("sys.stdin", Terminal("y\n"))
    assert cli("jobs", "cancel", "--endpoint", name).code == 0
    assert client.get_job(made.id).status == "cancelled"
    none = cli("jobs", "cancel", "--endpoint", name)
    assert (none.code, "0 match" in none.out) == (0, True)


def test_a_narrow_terminal_has_two_lines_for_a_job(
    cli: Run, client: Client, endpoint: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the whole id, which is what the next command needs."""
    made = client.submit_job(endpoint("/400/no"), 1, tags={"team": "a"})
    client.wait_job(made.id)
    monkeypatch.setattr("receiver.base.cli._PIPED_WIDTH", 80)
    lines = cli("jobs", "list").out.splitlines()
    assert len(lines) == 3
    assert made.id in lines[1]
    assert f"{made.endpoint}  rejected 400  team=a" in lines[2]
    assert max(map(len, lines)) <= 80


def test_a_story_tells_what_there_is_to_tell(
    cli: Run, client: Client, service: Running, endpoint: Make
) -> None:
    """Its callback, cost, run and class, beside the output."""
    name = endpoint(price={"perSecond": 0.5})
    made = cli("jobs", "submit", name, "--input", '"words"', "--to", service.hook(200),
               "--policy", "exponential", "--header", "X-A: b", "--priority", "low", "--ttl", "2h",
               "--idempotency-key", "k", "--call-timeout", "90", "--not-before", "0")  # fmt: skip
    assert made.code == 0, made.err
    id = made.out.split()[0]
    client.wait_job(id)
    again = cli("jobs", "submit", name, "--input", '"words"', "--to", service.hook(200),
                "--idempotency-key", "k")  # fmt: skip
    assert (id in again.out, "it was there already" in again.out) == (True, True)
    client.retry_job(id, force=True)
    client.wait_job(id)
    shown = " ".join(cli("jobs", "show", id).out.split())
    for words in ("callback cb_", " cost ", " run 2 ", "priority low", "words"):
        assert words in shown, words


def test_what_does_not_go_together_is_refused(cli: Run) -> None:
    """As a usage error, before anything is asked."""
    for words in (
        ("cancel",),
        ("retry",),
        ("cancel", "job_1", "--endpoint", "a"),
        ("retry", "job_1", "--dry-run"),
        ("retry", "--endpoint", "a", "--force", "--yes"),
        ("list", "--all", "--limit", "3"),
        ("list", "--status", "dead"),
    ):
        assert cli("jobs", *words).code == 2, words


def test_a_listing_is_cut_and_says_so(cli: Run, client: Client, endpoint: Make) -> None:
    """Newest first; wide terminals have a line each."""
    name = endpoint()
    made = [client.submit_job(name, n).id for n in range(3)]
    cut = cli("jobs", "list", "--limit", "2")
    assert "the newest 2" in cut.err
    assert (made[0] in cut.out, made[1] in cut.out, made[2] in cut.out) == (False, True, True)
    lines = cli("jobs", "list", "--all", "--json").lines
    assert [one["id"] for one in lines] == made[::-1]
    assert "no jobs match" in cli("jobs", "list", "--since", "2030-01-01T00:00:00Z").err


@pytest.mark.parametrize(
    "name", ["submit", "list", "show", "wait", "output", "input", "cancel", "retry"]
)
def test_each_has_examples(alone: Run, name: str) -> None:
    shown = alone("jobs", name, "--help")
    assert shown.code == 0
    assert f"$ dispatcher jobs {name}" in shown.out


def test_whatever_a_job_waits_for_is_said_in_words() -> None:
    """Also what its endpoint is held for."""
    words = [*get_args(WaitReason), "circuit", "retry-after", "turned-away", "unhealthy"]
    for one in words:
        if one != "held":  # then what for is said
            assert " " in wait_words(one)
    assert wait_words("something new") == "something new"
