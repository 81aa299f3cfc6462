"""The demonstration shows what it claims, and says so when it does not."""

import asyncio
import io
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from dispatcher.demo import run as demo
from dispatcher.demo.processes import DemoError
from dispatcher.demo.run import Figure


def test_the_demo_lives_through_its_night_and_every_number_is_right() -> None:
    """Real processes; exit code 0, no wrong figure, and three commands to try at the end."""
    done = subprocess.run(
        [sys.executable, "-m", "dispatcher", "demo"],
        capture_output=True,
        check=False,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "✗" not in done.stdout
    assert "completed, COMPLETED, success" in done.stdout
    for said in ("kill -9", "duplicate", "dead", "replayed", "each once", "dispatcher send"):
        assert said in done.stdout


@pytest.mark.parametrize(
    ("figure", "code"),
    [
        (Figure(name="lost", found=1, expected=0), 1),
        (Figure(name="duplicates", found=0, expected=1, at_least=True), 1),
        (Figure(name="duplicates", found=2, expected=1, at_least=True), 0),
    ],
)
def test_a_wrong_number_fails_the_demo(
    monkeypatch: pytest.MonkeyPatch, figure: Figure, code: int
) -> None:
    """Its exit code is not 0, and it names the number."""

    async def played(_folder: Path, _out: Console) -> list[Figure]:
        await asyncio.sleep(0)
        return [figure]

    monkeypatch.setattr(demo, "_play", played)
    text = io.StringIO()
    assert demo.run(Console(file=text, width=100)) == code
    assert ("wrong: " in text.getvalue()) == (code == 1)


def test_a_demo_that_cannot_go_on_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason and the ends of the processes' logs; exit code 1."""

    async def failing(folder: Path, _out: Console) -> list[Figure]:
        await asyncio.to_thread((folder / "dispatcher.log").write_text, "it went dark\n")
        raise DemoError("nothing was delivered")

    monkeypatch.setattr(demo, "_play", failing)
    text = io.StringIO()
    assert demo.run(Console(file=text, width=100)) == 1
    assert "nothing was delivered" in text.getvalue()
    assert "it went dark" in text.getvalue()
