"""The pages for web frameworks: pasted as they stand, and the conformance kit finds nothing wrong.

Flask, Django and Express are in environments of their own (`make sdk`), Go is the machine's. Where
one is missing its test is skipped, and the summary of the run says so; in CI that fails.
"""

import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

import psycopg
import pytest

from receiver.conformance.kit import check
from tests.deploy.pages import (
    MODULES,
    TOOLS,
    effects,
    environment,
    last_commands,
    program,
    running,
    write_files,
)
from tests.dispatcher.postgres.server import database
from tests.readme.documents import ROOT
from tests.sdk.installed import needs

DEPLOY: Final = ROOT / "deploy" / "receiver"
SECRET: Final = "whsec_dGVzdC10ZXN0LXRlc3QtdGVzdC10ZXN0"
HUGE: Final = 3 * 1024 * 1024  # over the limit of one
GUNICORN: Final = r"Listening at: (http://[\d.:]+)"
FREE_PORT: Final = "--bind 127.0.0.1:0"
OF_JAVASCRIPT: Final = {"two jobIds", "nesting without end", "a number without end"}
OF_GO: Final = {"two jobIds", "a number without end"}


async def finds_nothing_wrong(url: str, effects_url: str, advice: set[str]) -> None:
    """Every case, its effects included; all that it advises is known."""
    found = await check(url, SECRET, effects_url=effects_url, huge_bytes=HUGE, wait_s=0)
    wrong = [one for one in found if one.grade == "wrong"]
    assert wrong == []
    advised = {one.name.removeprefix("malformed: ") for one in found if one.grade == "advice"}
    assert advised <= advice


def run(words: list[str], folder: Path, path: list[Path], variables: dict[str, str]) -> str:
    """Run a program that must succeed; return all that it prints."""
    ran = subprocess.run(
        words,
        cwd=folder,
        env=environment(path, variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=500,
    )
    assert ran.returncode == 0, ran.stdout
    return ran.stdout


@contextmanager
def in_sqlite(file: Path, table: str) -> Iterator[str]:
    """The effects: what stands in a table, to be handled."""

    def rows() -> dict[str, list[str]]:
        with closing(sqlite3.connect(file, timeout=30)) as db:
            return {job: [status] for job, status in db.execute(f"SELECT job, status FROM {table}")}

    with effects(rows) as url:
        yield url


async def test_flask(tmp_path: Path) -> None:
    """deploy/receiver/flask.md"""
    needs(TOOLS / "gunicorn")
    page = DEPLOY / "flask.md"
    assert write_files(page, tmp_path) == ["shop.py"]
    script = last_commands(page, "gunicorn")
    with (
        running(script, tmp_path, GUNICORN, path=[TOOLS], GUNICORN_CMD_ARGS=FREE_PORT) as url,
        in_sqlite(tmp_path / "shop.db", "completions") as seen,
    ):
        await finds_nothing_wrong(f"{url}/webhooks", seen, set())


async def test_django(tmp_path: Path) -> None:
    """deploy/receiver/django.md"""
    needs(TOOLS / "django-admin")
    page = DEPLOY / "django.md"
    run([str(TOOLS / "django-admin"), "startproject", "shop", "."], tmp_path, [TOOLS], {})
    names = ["completions/models.py", "completions/views.py", "shop/urls.py", "shop/settings.py"]
    (tmp_path / "shop" / "urls.py").unlink()
    assert write_files(page, tmp_path) == names
    (tmp_path / "completions" / "__init__.py").touch()
    with (tmp_path / "shop" / "settings.py").open("a") as settings:
        settings.write('INSTALLED_APPS += ["completions"]\n')
    script = last_commands(page, "gunicorn")
    with (
        running(script, tmp_path, GUNICORN, path=[TOOLS], GUNICORN_CMD_ARGS=FREE_PORT) as url,
        in_sqlite(tmp_path / "db.sqlite3", "completions_completion") as seen,
    ):
        await finds_nothing_wrong(f"{url}/webhooks", seen, {"a body without its length"})


async def test_express(tmp_path: Path) -> None:
    """deploy/receiver/express.md, on a real PostgreSQL."""
    program("node")
    needs(MODULES / "express")
    page = DEPLOY / "express.md"
    assert write_files(page, tmp_path) == ["completions.mjs", "server.mjs"]
    for name in ("receive.mjs", "verify.mjs"):
        (tmp_path / name).write_bytes((DEPLOY / name).read_bytes())
    (tmp_path / "node_modules").symlink_to(MODULES)
    with database() as database_url:
        script = last_commands(page, "node").replace(
            "postgresql://shop@db.internal/shop", database_url
        )
        assert database_url in script

        def rows() -> dict[str, list[str]]:
            with psycopg.connect(database_url) as connection:
                found = connection.execute("SELECT job_id, status FROM completions").fetchall()
            return {job: [status] for job, status in found}

        with (
            running(script, tmp_path, r"(http://127\.0\.0\.1:\d+)", PORT="0") as url,
            effects(rows) as seen,
        ):
            await finds_nothing_wrong(f"{url}/webhooks", seen, OF_JAVASCRIPT)


# A map stands for the table: one key, one row. What is in it is what would be handled.
SERVER = """
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"sync"

	"shop/webhook"
)

func main() {
	var lock sync.Mutex
	rows := map[string][]string{}
	insert := func(_ context.Context, one webhook.Completion) (bool, error) {
		lock.Lock()
		defer lock.Unlock()
		key := one.JobID
		if rows[key] != nil {
			return false, nil
		}
		rows[key] = []string{one.Status}
		return true, nil
	}
	handler, err := webhook.Handler(os.Getenv("WEBHOOK_SECRET"), insert)
	if err != nil {
		panic(err)
	}
	http.Handle("/webhooks", handler)
	http.HandleFunc("/handled", func(w http.ResponseWriter, _ *http.Request) {
		lock.Lock()
		defer lock.Unlock()
		_ = json.NewEncoder(w).Encode(rows)
	})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	fmt.Printf("http://%s\\n", listener.Addr())
	server := http.Server{MaxHeaderBytes: 96 << 10}
	panic(server.Serve(listener))
}
"""
OFFLINE: Final = {
    "GOTOOLCHAIN": "local",
    "GOPROXY": "off",
    "GOFLAGS": "-mod=mod",
    "CGO_ENABLED": "0",
}


@pytest.mark.timeout(600)  # the first time, Go compiles its own library
async def test_go(tmp_path: Path) -> None:
    """deploy/receiver/go.md: it is formatted, compiles without a finding of `go vet`, and a service
    of another main function is right."""
    go = program("go")
    assert write_files(DEPLOY / "go.md", tmp_path) == ["webhook/webhook.go", "main.go"]
    (tmp_path / "go.mod").write_text("module shop\n\ngo 1.22\n")
    (tmp_path / "check").mkdir()
    (tmp_path / "check" / "main.go").write_text(SERVER)
    for words in (
        ["fmt", "./webhook", "."],
        ["vet", "./..."],
        ["build", "-o", "served", "./check"],
    ):
        assert run([go, *words], tmp_path, [], OFFLINE) == "", words
    with running(
        [str(tmp_path / "served")],
        tmp_path,
        r"(http://[\d.:]+)",
        WEBHOOK_SECRET=SECRET,
    ) as url:
        await finds_nothing_wrong(f"{url}/webhooks", f"{url}/handled", OF_GO)
