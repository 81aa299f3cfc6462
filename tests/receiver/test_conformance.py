"""The kit: our own receiver passes, and each planted fault is found, in the cases that are its."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from typer.testing import CliRunner

from receiver import Event, Receiver, Settings
from receiver.cli.root import app
from receiver.conformance import kit
from receiver.conformance.cases import cases
from receiver.conformance.deliveries import Signer
from receiver.conformance.endpoint import KitError
from receiver.conformance.judge import Finding
from receiver.conformance.kit import check
from tests.readme.documents import RECEIVER, read
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

    shop = Starlette(routes=[Route("/effects", show), Mount("/", app=receiver)])
    async with receiver, served(shop) as url:
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


COPIES = {"20 copies at once", "two ends at once"}
ENDS = {"a second end that differs", "two ends at once"}
OF_A_MARK = "a failure behind a byte order mark"
FAULTS: dict[Fault, set[str]] = {
    "none": set(),
    "takes unsigned": {"no signature"},
    "re-serialises": {"a body that JSON writers write otherwise"},
    "no window": {"an hour old", "an hour ahead"},
    "compares with NaN": {"a timestamp that is no number"},
    "compares a prefix": {"half a signature"},
    "checks one scheme": {
        "another message's id",
        "an id without its signature",
        "one scheme right, one wrong",
        "an hour old",
        "an hour ahead",
        "a timestamp that is no number",
    },
    "check, then insert": COPIES,
    "last one wins": {"progress after the end", *ENDS},
    "dedupes by message": {"the same end in another message", "progress after the end", *ENDS},
    "dedupes by signature": {
        "a retry, signed again",
        "the same end in another message",
        "progress after the end",
        *ENDS,
    },
    "crashes": {
        OF_A_MARK,
        "malformed: no JSON",
        "malformed: nothing",
        "malformed: not UTF-8",
        "malformed: nesting without end",
        "malformed: a number without end",
        "malformed: UTF-16",
        "malformed: compressed",
    },
    "believes what it cannot read": {
        OF_A_MARK,
        "malformed: no JSON",
        "malformed: nothing",
        "malformed: not UTF-8",
    },
    "crashes on text": {"malformed: half a character in jobId", "malformed: a NUL in jobId"},
    "fails when busy": set(),
    "no limit": set(),
    "trusts the length": set(),
    "loses the body of an offer": set(),
    "knows one name": set(),
    "knows four words": {
        "a completion without a status",
        "a completion in other words",
        "a failure in other words",
    },
}
ADVICE: dict[Fault, set[str]] = {
    "dedupes by message": {"progress and end under one webhook-id"},
    "fails when busy": {"20 copies at once", "two ends at once", "20 jobs at once"},
    "no limit": {"a huge body", "a huge body without its length"},
    "believes what it cannot read": {
        "malformed: nesting without end",
        "malformed: a number without end",
        "malformed: UTF-16",
    },
    "trusts the length": {"a huge body without its length"},
    "loses the body of an offer": {"an offer of HTTP/2"},
    "knows one name": {"svix-* for webhook-*"},
}
# The hand-made one knows nothing of the job's own headers.
OF_HEADERS = {"a job that signed headers name"}
OF_PYTHON = {"malformed: NaN", "malformed: two jobIds", "malformed: compressed", OF_A_MARK}


@pytest.mark.parametrize("fault", FAULTS)
async def test_each_planted_fault_is_found_and_nothing_else(fault: Fault) -> None:
    """The cases that go wrong are those that the fault makes go wrong, and each says what to do;
    what loses and doubles nothing is advice."""
    async with served(HandMade(SECRET, fault).app) as url:
        found = await check(
            f"{url}/hook", SECRET, effects_url=f"{url}/effects", huge_bytes=HUGE, wait_s=0
        )
    wrong = {one.name for one in found if one.grade == "wrong"}
    assert wrong == FAULTS[fault], table(found)
    advice = {one.name for one in found if one.grade == "advice"}
    assert advice - OF_PYTHON - OF_HEADERS == ADVICE.get(fault, set()), table(found)
    assert OF_A_MARK in wrong | advice, table(found)
    assert all(bool(one.why) == (one.grade != "ok") for one in found)


def test_how_much_it_sends_is_what_the_documents_say() -> None:
    """To the nearest ten: cases, and jobs that a receiver will have taken."""
    signer = Signer(secret=SECRET, run="r", now_s=lambda: 1_700_000_000)
    made = list(cases(signer, huge_bytes=1))
    jobs = {job for case in made if case.response == "2xx" for job in case.jobs}
    assert (round(len(made), -1), round(len(jobs), -1)) == (60, 50)
    assert "It has some sixty cases:" in read(RECEIVER)
    assert "it creates some fifty\njobs named" in read(RECEIVER)
    told = CliRunner().invoke(app, ["check", "--help"], env={"COLUMNS": "200"}).stdout
    assert "It makes some fifty jobs named check_" in " ".join(told.split())


def test_every_fault_is_looked_for() -> None:
    """None is planted in vain."""
    apart = {"hangs", "breaks when a sender hangs up"}
    assert FAULTS.keys() | apart == set(get_args(Fault))


async def test_who_breaks_when_a_sender_hangs_up_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a delivery, and the next one is not answered any more."""
    monkeypatch.setattr(kit, "COME_BACK_AFTER_S", (0.0,))
    async with served(HandMade(SECRET, "breaks when a sender hangs up").app) as url:
        found = await check(f"{url}/hook", SECRET, huge_bytes=HUGE)
    first = next(one for one in found if one.grade == "wrong")
    assert first.name == "a sender that hangs up, and one more"


def turning_away(app: Any, times: int) -> Any:
    """A limiter in front of it, which answers 429 that often to each one that it would refuse."""
    turned: dict[tuple[str, bytes], int] = {}

    async def limited(scope: Any, receive: Any, send: Any) -> None:
        who = str(sorted(scope.get("headers", ()))), b""

        async def judged(message: Any) -> None:
            if message["type"] == "http.response.start" and 400 <= message["status"] < 500:
                turned[who] = turned.get(who, 0) + 1
                if turned[who] <= times:
                    message = {**message, "status": 429}
            await send(message)

        await app(scope, receive, judged)

    return limited


@pytest.mark.parametrize("times", [1, 1_000])
async def test_turned_away_is_not_judged(times: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A limiter's 429 is tried again; where it stays, the case is open, and says why."""
    monkeypatch.setattr(kit, "COME_BACK_AFTER_S", (0.0, 0.0))
    app = turning_away(HandMade(SECRET, "takes unsigned").app, times)
    async with served(app) as url:
        found = await check(f"{url}/hook", SECRET, huge_bytes=HUGE)
    by_name = {one.name: one for one in found}
    assert by_name["no signature"].grade == "wrong"
    refused = by_name["another secret"]
    if times == 1:
        assert (refused.grade, refused.did.split(",")[0]) == ("ok", "429→401")
    else:
        assert (refused.grade, refused.did.split(",")[0]) == ("advice", "429→429→429")
        assert "429" in refused.why


async def test_come_back_later_is_no_fault() -> None:
    """A receiver that answers 503 when it is busy is asked again, as by a sender."""
    async with served(HandMade(SECRET, "none", is_often_busy=True).app) as url:
        found = await check(
            f"{url}/hook", SECRET, effects_url=f"{url}/effects", huge_bytes=HUGE, wait_s=0
        )
    assert {one.name for one in found if one.grade == "wrong"} == set(), table(found)
    assert any("503→200" in one.did for one in found), table(found)


async def test_who_hangs_ends_the_check_and_not_the_patience() -> None:
    """Three silent deliveries in a row, and the rest is not sent."""
    async with served(HandMade(SECRET, "hangs").app) as url:
        found = await check(f"{url}/hook", SECRET, huge_bytes=HUGE, timeout_s=0.7)
    did = {one.name: one.did for one in found}
    assert did["malformed: no JSON"] == "no answer"
    assert did["one more after all that"] == "not sent: it had stopped answering"


def table(found: list[Finding]) -> str:
    return "\n".join(f"{one.grade:7} {one.name}: {one.should} / {one.did}" for one in found)


@pytest.mark.parametrize(
    "url",
    ["", "hook", "ftp://x/", "http://", "http:///x", "http://127.0.0.1:99999/"],
)
async def test_what_is_no_url_is_refused(url: str) -> None:
    """Before anything is sent; for the effects as well."""
    with pytest.raises(ValueError, match=r"URL|port"):
        await check(url, SECRET)
    with pytest.raises(ValueError, match=r"URL|port"):
        await check("http://127.0.0.1:1/", SECRET, effects_url=url)


@pytest.mark.parametrize("host", ["127.0.0.1:1", "a" * 70, "no-such-host.invalid"])
async def test_what_cannot_be_reached_is_one_error(host: str) -> None:
    """Nobody there, or no such name; and what may be secret in a URL is not told."""
    with pytest.raises(KitError, match="cannot reach") as error:
        await check(f"http://user:test-password@{host}/hook?token=test-token", SECRET)
    assert "test-" not in str(error.value)


async def test_who_refuses_the_plainest_delivery_is_judged_no_further() -> None:
    """The wrong path, the wrong secret: one error that says which it may be."""
    async with served(HandMade(SECRET, "none").app) as url:
        with pytest.raises(KitError, match=r"answered 404 to a valid .* where it takes"):
            await check(f"{url}/elsewhere", SECRET)
        with pytest.raises(KitError, match=r"answered 401 to a valid .* secret"):
            await check(f"{url}/hook", "whsec_c3RyYW5nZQ==")


async def test_effects_that_are_none_are_one_error() -> None:
    """No JSON; and more than anybody has handled."""

    async def immense(request: Request) -> Response:
        async def pieces() -> AsyncIterator[bytes]:
            for _ in range(17):
                yield b"x" * 1024 * 1024

        return StreamingResponse(pieces())

    right = HandMade(SECRET, "none").app
    shop = Starlette(routes=[Route("/immense", immense), Mount("/", app=right)])
    async with served(shop) as url:
        for path, told in (("hook", "in JSON"), ("immense", "more than"), ("none", "in JSON")):
            with pytest.raises(KitError, match=told):
                await check(f"{url}/hook", SECRET, effects_url=f"{url}/{path}", huge_bytes=HUGE)


async def test_the_command_checks_a_receiver(tmp_path: Path) -> None:
    """All of it, with a huge body that is huge; 0 where all is right, 1 for another secret."""
    async with our_own(tmp_path, body_bytes_max=1_000_000) as url:
        good, strange = await asyncio.gather(
            run("check", f"{url}/webhooks", "--secret", SECRET, "--effects", f"{url}/effects"),
            run("check", f"{url}/webhooks", "--secret", "whsec_c3RyYW5nZQ=="),
        )
    assert good[0] == 0, good
    assert "20 copies at once" in good[1]
    assert "0 wrong, 0 with advice" in good[1]
    assert (strange[0], strange[1]) == (1, "")
    assert "is the secret its own?" in strange[2]


FOUND = [
    Finding(name="one", should="2xx", did="200", grade="ok"),
    Finding(name="two", should="4xx", did="200", grade="wrong", why="refuse it"),
    Finding(name="three", should="4xx", did="500", grade="wrong", why="refuse it"),
    Finding(name="four", should="4xx", did="[b]", grade="advice", why="set a limit"),
]


def test_the_command_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once for all that it is about; for programs in JSON; exit 1 if anything is wrong."""

    async def found(*_: Any, **__: Any) -> list[Finding]:
        return FOUND

    monkeypatch.setattr(kit, "check", found)
    words = ["check", "http://x/", "--secret", SECRET]
    told = CliRunner().invoke(app, words)
    assert told.exit_code == 1
    lines = [line.strip() for line in told.stdout.splitlines()]
    assert lines.index("✗  refuse it") + 1 == lines.index("two, three")
    assert lines.index("!  set a limit") + 1 == lines.index("four")
    assert "!  four      4xx        [b]" in lines
    assert "4 cases, 2 wrong, 1 with advice" in lines
    document = json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)
    assert document["wrong"] == 2
    assert document["findings"][1] == asdict(FOUND[1])


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["http://x/", "--secret", "It's a Secret"], "--schemes sha256"),
        (["hook", "--secret", SECRET], "not an http or https URL: 'hook'"),
        (["http://x/", "--secret", SECRET, "--effects", "handled"], "not an http or https URL"),
        (["http://x/", "--secret", SECRET, "--wait", "nan"], "--wait"),
    ],
)
def test_what_the_command_cannot_use_is_usage(words: list[str], told: str) -> None:
    """Before anything is sent."""
    ran = CliRunner().invoke(app, ["check", *words])
    assert (ran.exit_code, ran.stdout) == (2, "")
    assert told in ran.stderr


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
