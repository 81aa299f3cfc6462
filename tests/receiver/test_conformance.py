"""The kit: our own receiver passes, and each planted fault is found, in the cases that are its."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, get_args

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

from receiver import Event, Receiver, Settings
from receiver.conformance.kit import Finding, KitError, check
from tests.receiver.broken import Fault, HandMade
from tests.receiver.serving import served

SECRET = "whsec_dGVzdC10ZXN0LXRlc3QtdGVzdC10ZXN0"
HUGE = 3 * 1024 * 1024  # over every limit in here; the kit's own default takes seconds


@asynccontextmanager
async def our_own(folder: Path, **more: Any) -> AsyncIterator[str]:
    """Mounted in a customer's application, with a handler that keeps a list."""
    effects: dict[str, list[str]] = {}
    receiver = Receiver(
        Settings(secrets=(SECRET,), database_url=f"sqlite:///{folder}/inbox.db", **more)
    )

    @receiver.on("*")
    async def handle(event: Event) -> None:
        effects.setdefault(event.job_id, []).append(event.status)

    async def show(request: Request) -> Response:
        return JSONResponse(effects)

    app = Starlette(routes=[Route("/effects", show), Mount("/", app=receiver)])
    async with receiver, served(app) as url:
        yield url


@pytest.mark.parametrize("schemes", ["both", "sha256", "standard"])
async def test_our_own_receiver_passes(tmp_path: Path, schemes: Any) -> None:
    """Every case, its effects included, and without one word of advice."""
    async with our_own(tmp_path) as url:
        found = await check(
            f"{url}/webhooks",
            SECRET,
            effects_url=f"{url}/effects",
            schemes=schemes,
            huge_bytes=HUGE,
        )
    assert [one for one in found if one.grade != "ok"] == []
    assert len(found) >= 15


FAULTS: dict[Fault, set[str]] = {
    "none": set(),
    "takes unsigned": {"no signature"},
    "re-serialises": {"a body that JSON writers write otherwise"},
    "no window": {"an hour old", "an hour ahead"},
    "check, then insert": {"20 copies at once"},
    "last one wins": {"progress after the end", "a second end that differs"},
    "crashes": {
        "malformed: no JSON",
        "malformed: not UTF-8",
        "malformed: nothing",
        "malformed: nesting without end",
    },
}


@pytest.mark.parametrize("fault", get_args(Fault))
async def test_each_planted_fault_is_found_and_nothing_else(fault: Fault) -> None:
    """The cases that go wrong are those that the fault makes go wrong."""
    async with served(HandMade(SECRET, fault).app) as url:
        found = await check(
            f"{url}/hook", SECRET, effects_url=f"{url}/effects", huge_bytes=HUGE, wait_s=0.5
        )
    wrong = {one.name for one in found if one.grade == "wrong"}
    assert wrong == FAULTS[fault], table(found)


def table(found: list[Finding]) -> str:
    return "\n".join(f"{one.grade:7} {one.name}: {one.should} / {one.did}" for one in found)


async def test_what_cannot_be_reached_is_one_error() -> None:
    """Nobody there; and effects that are no effects."""
    with pytest.raises(KitError, match="cannot reach"):
        await check("http://127.0.0.1:1/", SECRET)
    async with served(HandMade(SECRET, "none").app) as url:
        with pytest.raises(KitError, match="in JSON"):
            await check(f"{url}/hook", SECRET, effects_url=f"{url}/hook")


async def test_the_command_prints_a_table_and_exits_by_what_it_found(tmp_path: Path) -> None:
    """0 where all is right, 1 where something is wrong, 2 for a secret that cannot sign."""
    async with our_own(tmp_path, body_bytes_max=1_000_000) as url:
        words = ("check", f"{url}/webhooks", "--secret", SECRET)
        good = await run(*words, "--effects", f"{url}/effects")
        told = await run(*words, "--json")
        strange = await run("check", f"{url}/webhooks", "--secret", "whsec_c3RyYW5nZQ==")
        plain = await run("check", f"{url}/webhooks", "--secret", "It's a Secret")
    assert good[0] == 0, good
    assert "20 copies at once" in good[1]
    assert "0 wrong" in good[1]
    assert json.loads(told[1])["wrong"] == 0
    assert (strange[0], plain[0]) == (1, 2)
    assert "--schemes sha256" in plain[2]


async def run(*words: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "receiver",
        *words,
        env={**os.environ, "COLUMNS": "200"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()
