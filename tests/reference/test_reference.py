"""The OpenAPI document before public judges: two linters find nothing to say of it, a validator
takes it for what it says it is, and a fuzzer that knows nothing else of us finds it true."""

import json
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final

import pytest

from dispatcher.api.app import OPERATIONS
from dispatcher.api.reference import openapi
from tests.sdk.installed import SDK, needs
from tests.theft import ADMIN_KEY, served

HERE: Final = Path(__file__).parent
BIN: Final = SDK / "reference" / "bin"
LINTERS: Final = SDK / "linters" / "node_modules" / ".bin"
# Nobody is told that they run, and nobody is asked whether there is a newer one.
QUIET: Final = {"REDOCLY_TELEMETRY": "off", "REDOCLY_SUPPRESS_UPDATE_NOTICE": "true"}

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def document(tmp_path: Path) -> Path:
    file = tmp_path / "openapi.json"
    file.write_text(json.dumps(openapi.document(OPERATIONS), indent=1), "utf-8")
    return file


def run(program: Path, *arguments: str | Path, cwd: Path) -> None:
    """A program that has nothing to say against it."""
    needs(program)
    done = subprocess.run(
        [program, *arguments],
        cwd=cwd,
        env=os.environ | QUIET,
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, f"{done.stdout[-8_000:]}\n{done.stderr[-2_000:]}"


def test_it_is_valid_openapi_3_1(document: Path) -> None:
    run(BIN / "openapi-spec-validator", document, cwd=document.parent)


def test_spectral_finds_nothing_not_even_a_hint(document: Path) -> None:
    rules = HERE / "spectral.yaml"
    run(LINTERS / "spectral", "lint", document, "-r", rules, "-F", "hint", cwd=document.parent)


def test_redocly_finds_nothing_where_every_warning_is_an_error(document: Path) -> None:
    config = HERE / "redocly.yaml"
    run(LINTERS / "redocly", "lint", document, "--config", config, cwd=document.parent)


class _Upstream(BaseHTTPRequestHandler):
    """Answers at once, with what it was sent."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(200)
        self.send_header("Content-Type", self.headers.get("Content-Type", "text/plain"))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None: ...


@contextmanager
def upstream() -> Iterator[str]:
    """The URL of one that runs."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Upstream) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/"
        finally:
            server.shutdown()


def test_a_fuzzer_that_knows_the_document_alone_finds_it_true(tmp_path: Path) -> None:
    """Whatever it sends, the service answers with a status, a type, headers and a shape that the
    document names, never with 500, and to nobody without a key. What it submits goes nowhere: the
    way out is a proxy that is not there."""
    needs(BIN / "st")
    database, log = f"sqlite:///{tmp_path}/fuzzed.db", tmp_path / "log"
    settings = {"PROXY_URL": "http://127.0.0.1:9", "UPSTREAM_NETWORKS": "127.0.0.0/8"}
    quiet = {"LOG_LEVEL": "error", "SWEEP_INTERVAL": "5"}
    with upstream() as url, served(database, log, **settings, **quiet) as running:
        made = running.client.post("/v1/endpoints", json={"name": "shout", "url": url})
        assert made.status_code == 201, made.text
        run(
            BIN / "st",
            "--config-file",
            HERE / "schemathesis.toml",
            "run",
            f"{str(running.client.base_url).rstrip('/')}/openapi.json",
            "--header",
            f"Authorization: Bearer {ADMIN_KEY}",
            "--no-color",
            cwd=tmp_path,
        )
