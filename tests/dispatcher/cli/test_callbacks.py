"""The operator's day against a real service: send, find, understand, replay, cancel."""

import io
import json
from datetime import timedelta
from pathlib import Path

import pytest

from dispatcher.client import Client
from tests.dispatcher.cli.conftest import Run
from tests.dispatcher.client.running import Running

ONCE = '{"attempts": 1}'


@pytest.fixture
def dead(client: Client, service: Running) -> str:
    """A callback that its customer refused for good."""
    made = client.submit(
        "job_dead", {"status": "failed"}, callback_url=service.hook(503), policy={"attempts": 1}
    )
    assert client.wait(made.id, 10).status == "dead"
    return made.id


def test_send_prints_the_id_and_says_when_it_was_there_already(cli: Run, service: Running) -> None:
    """The same send twice is one callback, and says so."""
    argv = ("send", "--job-id", "job_1", "--to", service.hook(200), "--payload", '{"a": 1}')
    first = cli(*argv)
    again = cli(*argv)
    assert (first.code, again.code) == (0, 0)
    assert first.out.startswith("cb_")
    assert again.out.split()[0] == first.out.split()[0]
    assert "there already" in again.out
    assert cli(*argv, "--json").json["duplicate"] is True


def test_send_carries_every_option(cli: Run, client: Client, service: Running) -> None:
    """Each option arrives as the field it stands for."""
    client.register_destination("billing", service.hook(200))
    client.change_destination("billing", {"paused": True})
    sent = cli(
        *("send", "--job-id", "job_1", "--destination", "billing", "--payload", "[1,  2]"),
        *("--status", "weird", "--tag", "a=b=c", "--tag", "d=", "--priority", "high"),
        *("--policy", "runpod", "--header", "X-One: 1", "--idempotency-key", "k", "--json"),
        *("--run", "2", "--not-before", "3600"),
    )
    assert sent.code == 0, sent.err
    found = client.get(sent.json["id"])
    assert (found.job_status, found.priority, found.run) == ("weird", "high", 2)
    assert found.next_attempt_at is not None
    assert found.next_attempt_at - found.created_at == timedelta(hours=1)
    assert found.tags == {"a": "b=c", "d": ""}
    assert found.destination_name == "billing"
    assert found.policy is not None
    assert found.policy["attempts"] == 3
    assert client.payload(found.id).body == b"[1,  2]"


def test_send_wait_tells_the_story_and_fails_with_it(cli: Run, service: Running) -> None:
    """Exit 0 once it is delivered, 1 when it is dead."""
    argv = ("send", "--payload", "{}", "--wait")
    good = cli(*argv, "--job-id", "job_1", "--to", service.hook(200))
    assert (good.code, "● delivered" in good.out) == (0, True)
    bad = cli(*argv, "--job-id", "job_2", "--to", service.hook(503), "--policy", ONCE)
    assert (bad.code, "✗ dead" in bad.out) == (1, True)
    late = cli(*argv, "--job-id", "job_3", "--to", service.hook(503), "--timeout", "0.1")
    assert late.code == 1
    assert "still on its way" in late.err
    shown = cli(*argv, "--job-id", "job_4", "--to", service.hook(200), "--json")
    assert shown.json["status"] == "delivered"


def test_send_reads_the_payload_from_a_file_or_standard_input(
    cli: Run,
    client: Client,
    service: Running,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Byte for byte, whichever way it comes (I5)."""
    body = b'{"text": "\xc3\xa9",  "n": 1.0}'
    (tmp_path / "payload.json").write_bytes(body + b"\n")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(body)))
    for job, source in (("job_1", str(tmp_path / "payload.json")), ("job_2", "-")):
        sent = cli(
            "send", "--job-id", job, "--to", service.hook(200), "--payload", source, "--json"
        )
        assert sent.code == 0, sent.err
        assert client.payload(sent.json["id"]).body == body


def test_a_file_is_sent_line_by_line_and_its_bad_lines_are_named(
    cli: Run, client: Client, service: Running, tmp_path: Path
) -> None:
    """Good lines are accepted, bad ones told with their number, exit 1; a second run finds the
    good ones there already."""
    lines = [
        json.dumps({"jobId": f"job_{n}", "callbackUrl": service.hook(200), "payload": n})
        for n in range(1, 1_101)
    ]
    lines[1] = ""
    lines[2] = "nonsense"
    lines[1_050] = '{"jobId": 7}'
    file = tmp_path / "many.ndjson"
    file.write_text("\n".join(lines) + "\r\n")
    first = cli("send", "--file", str(file))
    assert first.code == 1
    assert "1,097 accepted, 2 failed" in first.out
    assert "line 3: " in first.err
    assert "line 1051: jobId" in first.err
    again = cli("send", "--file", str(file), "--json")
    assert again.code == 1
    results = again.lines
    assert [one["line"] for one in results] == [n for n in range(1, 1_101) if n != 2]
    assert sum(one.get("duplicate", False) for one in results) == 1_097
    assert {one["line"]: one["error"] for one in results if "error" in one} == {
        3: "MALFORMED_JSON",
        1051: "VALIDATION_ERROR",
    }


def test_a_file_may_begin_with_a_byte_order_mark(
    cli: Run, service: Running, tmp_path: Path
) -> None:
    """As programs on Windows write it: before the first line, or before blank ones."""
    line = json.dumps({"jobId": "job_1", "callbackUrl": service.hook(200), "payload": 1})
    file = tmp_path / "many.ndjson"
    for number, text in ((1, line), (3, f"\r\n\r\n{line}\r\n")):
        file.write_bytes(b"\xef\xbb\xbf" + text.encode())
        sent = cli("send", "--file", str(file), "--json")
        assert (sent.code, [one["line"] for one in sent.lines]) == (0, [number])


def test_list_shows_whole_ids_in_80_columns(cli: Run, client: Client, dead: str) -> None:
    """Two lines for each callback: nothing needed is cut, and nothing is wider than asked."""
    found = cli("list", "--status", "dead")
    assert found.code == 0
    assert dead in found.out
    assert "✗ dead" in found.out
    assert "http_503 · 1 attempt" in found.out


@pytest.mark.parametrize(
    ("argv", "jobs"),
    [
        (("--status", "dead"), ["job_dead"]),
        (("--job-status", "completed"), ["job_b"]),
        (("--job-id", "job_a"), ["job_a"]),
        (("--tag", "team=a"), ["job_a"]),
        (("--priority", "high"), ["job_b"]),
        (("--error", "http_503"), ["job_dead"]),
        (("--since", "1h"), ["job_b", "job_a", "job_dead"]),
        (("--until", "1h"), []),
        (("--since", "2000-01-01", "--limit", "2"), ["job_b", "job_a"]),
        (("--all",), ["job_b", "job_a", "job_dead"]),
    ],
)
def test_list_finds_by_every_filter(
    cli: Run, client: Client, service: Running, dead: str, argv: list[str], jobs: list[str]
) -> None:
    """Each filter option is the API's filter, and `--json` prints the API's objects."""
    client.submit("job_a", {}, callback_url=service.hook(200), tags={"team": "a"})
    client.submit("job_b", {"status": "completed"}, callback_url=service.hook(200), priority="high")
    found = cli("list", *argv, "--json")
    assert found.code == 0, found.err
    assert [one["jobId"] for one in found.lines] == jobs
    for one in found.lines:
        assert {"id", "callbackUrl", "createdAt", "tags"} <= one.keys()


def test_list_finds_by_destination(cli: Run, client: Client, service: Running) -> None:
    """By server and by id; and by the exact URL."""
    made = client.submit("job_1", {}, callback_url=service.hook(200))
    client.submit("job_2", {}, callback_url=service.hook(200, "other"))
    client.submit("job_3", {}, callback_url="http://127.0.0.1:9/elsewhere")
    by_url = cli("list", "--callback-url", service.hook(200), "--json")
    assert [one["jobId"] for one in by_url.lines] == ["job_1"]
    for which in (service.hook(200, "any"), client.get(made.id).destination):
        found = cli("list", "--destination", which, "--json")
        assert [one["jobId"] for one in found.lines] == ["job_2", "job_1"]


def test_list_says_when_nothing_matches(cli: Run) -> None:
    """An empty answer is an answer: exit 0."""
    found = cli("list")
    assert (found.code, found.out) == (0, "")
    assert "no callbacks match" in found.err


def test_show_tells_the_story(cli: Run, client: Client, dead: str) -> None:
    """Accepted, each attempt with its answer, the end, and what to type next; what a customer
    answers cannot command the terminal."""
    client.replay(dead)
    client.wait(dead)
    story = cli("show", dead)
    assert story.code == 0
    for text in ("job_dead (failed)", "accepted", "attempt 2", "rejected 503", "the customer"):
        assert text in story.out
    assert f"dispatcher replay {dead}" in story.out
    assert "\x1b" not in story.out
    both = cli("show", dead, "--json").json
    assert both["callback"]["id"] == dead
    assert [one["n"] for one in both["history"]["data"]] == [1, 2]


def test_show_payload_prints_the_bytes_and_nothing_else(
    cli: Run, client: Client, service: Running
) -> None:
    """Fit to pipe into another program."""
    made = client.submit("job_1", b'{"a":  1}', callback_url=service.hook(200))
    assert cli("show", made.id, "--payload").out == '{"a":  1}'


def test_a_replay_is_previewed_run_and_counted(cli: Run, client: Client, dead: str) -> None:
    """A dry run changes nothing; `--yes` replays and reports; one by one works too."""
    preview = cli("replay", "--status", "dead", "--dry-run")
    assert preview.code == 0
    assert "1 match status=dead" in preview.out
    assert dead in preview.out
    assert client.get(dead).status == "dead"
    assert cli("replay", "--error", "http_503", "--dry-run", "--json").json["matched"] == 1
    done = cli("replay", "--status", "dead", "--rate", "50", "--yes")
    assert (done.code, done.out.splitlines()[0]) == (0, "done: 1 of 1 replayed")
    assert client.wait(dead).attempts == 2
    started = cli("replay", "--status", "dead", "--yes", "--no-wait", "--json").json
    assert started["matched"] == 1
    watched = cli("replay", started["id"])
    assert watched.out.splitlines()[0] == "done: 1 of 1 replayed"
    client.wait(dead)
    one = cli("replay", dead, "--wait")
    assert one.code == 1
    assert "attempt 4" in one.out


def test_what_is_not_counted_to_its_end_says_so(
    cli: Run, client: Client, service: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At least so many match, and a replay takes all. A list goes on until it has what there is."""
    ids = [
        client.submit(f"job_{n}", {}, callback_url=service.hook(503), policy={"attempts": 1}).id
        for n in range(3)
    ]
    assert {client.wait(one).status for one in ids} == {"dead"}
    monkeypatch.setattr("dispatcher.store.replays.COUNTED_MAX", 2)
    monkeypatch.setattr("dispatcher.cli.replay._COUNTED", 2)
    assert "more than 2 match status=dead" in cli("replay", "--status", "dead", "--dry-run").out
    monkeypatch.setattr("dispatcher.store.search.SCAN_MAX", 1)
    found = cli("list", "--job-status", "none", "--all", "--json")
    assert (found.code, found.out) == (0, "")
    listed = cli("list", "--callback-url", service.hook(503), "--json").lines
    assert {one["id"] for one in listed} == set(ids)
    done = cli("replay", "--status", "dead", "--yes")
    assert done.out.splitlines()[0] == "done: 3 of 3 replayed"


def test_replay_asks_and_a_no_changes_nothing(
    cli: Run, client: Client, dead: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a terminal the preview comes first; anything but yes leaves all as it is."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stdin", Terminal("n\n"))
    refused = cli("replay", "--status", "dead")
    assert refused.code == 1
    assert dead in refused.out
    assert "nothing was replayed" in refused.err
    assert client.get(dead).status == "dead"
    monkeypatch.setattr("sys.stdin", Terminal("y\n"))
    assert cli("replay", "--status", "dead").code == 0
    assert client.wait(dead).attempts == 2


def test_one_bad_id_does_not_stop_the_others(cli: Run, client: Client, dead: str) -> None:
    """Each is tried, the bad one is named, and the exit code is 1."""
    ran = cli("replay", "cb_unknown", dead)
    assert ran.code == 1
    assert "cb_unknown" in ran.err
    assert dead in ran.out
    assert client.wait(dead).attempts == 2


def test_cancel_ends_a_waiting_callback(cli: Run, client: Client, service: Running) -> None:
    """And says so; a second time is a conflict."""
    client.register_destination("parked", service.hook(200))
    client.change_destination("parked", {"paused": True})
    made = client.submit("job_1", 1, destination="parked")
    assert "cancelled" in cli("cancel", made.id).out
    assert client.get(made.id).status == "cancelled"
    again = cli("cancel", made.id)
    assert (again.code, again.out) == (1, "")


def test_stats_counts_by_state(cli: Run, dead: str) -> None:
    """A table for people, the API's object for programs."""
    assert "✗ dead" in cli("stats").out
    assert cli("stats", "--json").json["counts"]["dead"] == 1
    assert cli("stats", "--all", "--json").json["counts"]["dead"] >= 1
