"""`dispatcher run`, `dispatcher jobs watch`: a job is seen while it runs."""

import json
import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

import pytest

from dispatcher.cli import job_watch
from dispatcher.cli.job_watch import View
from dispatcher.client import Client, JobEvent, WaitTimeout
from dispatcher.client.upstream import PROGRESS_URL, report
from tests.dispatcher.cli.conftest import Run
from tests.dispatcher.client.running import Running


@contextmanager
def streaming(*parts: bytes) -> Iterator[str]:
    """An upstream that answers every call with these parts, as events."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            for part in parts:
                self.wfile.write(part)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with listening(Handler) as url:
        yield url


@contextmanager
def listening(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """The URL of a server that this answers."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/run"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def answering(take: Callable[[Mapping[str, str]], bytes], *, status: int) -> Iterator[str]:
    """An upstream that answers every call with what `take` makes of its headers."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            body = take(dict(self.headers))
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with listening(Handler) as url:
        yield url


@pytest.fixture
def endpoint(client: Client) -> Iterator[str]:
    """One whose upstream answers in chunks."""
    with streaming(b'data: {"page": 1}\n\n', b"data: done\n\n") as url:
        name = f"e{uuid.uuid4().hex[:12]}"
        client.make_endpoint(name, url, {"body": "raw"})
        yield name


def test_a_job_is_run_with_an_input_of_a_file(cli: Run, endpoint: str, tmp_path: Path) -> None:
    """`@FILE`, as others write it; with --wait its story is told at the end."""
    file = tmp_path / "job.json"
    file.write_text('{"pages": 2}')
    ran = cli("run", endpoint, "--input", f"@{file}", "--wait")
    assert ran.code == 0, ran.err
    assert "● completed" in ran.out
    assert "waited" in ran.out
    assert "● call 1  answered 200" in ran.out
    assert "● completed after" in ran.out
    assert '[{"page":1},"done"]' in ran.out
    (job,) = cli("jobs", "list", "--endpoint", endpoint, "--json").lines
    assert cli("jobs", "input", job["id"]).out == '{"pages": 2}'


def test_its_story_says_how_far_it_came(cli: Run, client: Client, service: Running) -> None:
    """Its progress, its step, and the last lines of its log, also after its end."""

    def take(headers: Mapping[str, str]) -> bytes:
        url = service.url + urlsplit(headers[PROGRESS_URL]).path
        assert report(url, 40, step="page 4", log="loaded\nrendering")
        return b'{"error": "no GPU left"}'

    with answering(take, status=500) as url:
        name = f"e{uuid.uuid4().hex[:12]}"
        client.make_endpoint(name, url)
        job = client.submit_job(name, {})
        client.wait_job(job.id)
    told = cli("jobs", "show", job.id).out
    assert re.search(r"progress +40 %  page 4", told)
    assert told.index("loaded") < told.index("rendering") < told.index("no GPU left")


def test_a_job_is_watched_line_by_line(cli: Run, client: Client, endpoint: str) -> None:
    """What it does, each chunk, its end; as JSON a document a line."""
    job = client.submit_job(endpoint, {})
    client.wait_job(job.id)
    watched = cli("jobs", "watch", job.id)
    assert watched.code == 0, watched.err
    lines = [line.split("  ", 1)[1].strip() for line in watched.out.splitlines()]
    assert lines == ['chunk 0  {"page":1}', "chunk 1  done", "● completed"]
    told = cli("jobs", "watch", job.id, "--json").lines
    assert [one["what"] for one in told] == ["output", "output", "end"]
    assert [one["output"] for one in told[:2]] == [{"page": 1}, "done"]
    assert told[2]["job"]["id"] == job.id


def test_a_watch_of_what_fails_exits_with_1(cli: Run, client: Client, endpoint: str) -> None:
    client.pause_endpoint(endpoint)
    job = client.submit_job(endpoint, {})
    late = cli("jobs", "watch", job.id, "--timeout", "0.5")
    assert late.code == 1
    assert "○ queued  at 1  its endpoint is paused" in late.out
    assert "is still queued" in late.err
    client.cancel_job(job.id)
    assert cli("jobs", "watch", job.id).code == 1
    assert cli("jobs", "watch", "job_" + "0" * 32).code == 1


def test_a_line_says_what_is_known(client: Client, endpoint: str) -> None:
    """Its state, its place in the queue and why it waits, its progress as a bar, its chunks."""
    view = View()
    view.take(JobEvent(status="queued", position=1_200, position_exactly=False,
                       waiting_for="capacity"))  # fmt: skip
    assert view.line(is_timed=False).plain == "○ queued  at about 1,200  as many calls run as may"
    view.take(JobEvent(status="running"))
    view.take(JobEvent(what="progress", progress=12.5, current_step="page 3"))
    view.take(JobEvent(what="output", index=1, output="b"))
    assert view.line(is_timed=False).plain == "◐ running  12.5 %  page 3  2 chunks"
    assert view.shown().row_count == 1
    client.pause_endpoint(endpoint)
    updates = job_watch.updates(client, client.submit_job(endpoint, {}).id, 0.5)
    with pytest.raises(WaitTimeout, match="still queued"):
        list(updates)


def test_it_is_one_line_on_a_terminal(
    cli: Run, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On that of errors: what is printed is the story alone."""
    seen: list[str] = []
    show = View.shown

    def shown(view: View) -> Any:
        seen.append(view.status)
        return show(view)

    monkeypatch.setattr(View, "shown", shown)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    ran = cli("run", endpoint, "--wait")
    assert ran.code == 0, ran.err
    assert json.dumps("done") in ran.out
    assert seen
