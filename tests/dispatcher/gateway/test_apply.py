"""gateway/apply.py: endpoints out of a file: how it is read, compared, and put in force."""

import asyncio
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest

from dispatcher.app import Service
from dispatcher.audit import Entry, EntryFilter, by_service
from dispatcher.gateway.apply import (
    ENDPOINTS_MAX,
    ApplyError,
    Plan,
    apply,
    changed_fields,
    plan_of,
    read,
)
from dispatcher.jobs.endpoint import Endpoint, EndpointRules, LocalRef, dump_rules
from dispatcher.jobs.schema import InputSchema
from dispatcher.store.errors import Conflict, NotFound
from dispatcher.values import SigningSecret
from tests.dispatcher.gateway.rig import settings_of
from tests.dispatcher.store.jobs import builders

URL: Final = "http://127.0.0.1:9000/generate"
NOW_MS: Final = 1_790_000_000_000
WHAT: Final = "DISPATCHER_APPLY"


A: Final = f"[endpoints.a]\nurl = '{URL}'\n"


def written(folder: Path, text: str) -> str:
    path = folder / "postback.toml"
    path.write_text(text)
    return str(path)


def refused(folder: Path, text: str) -> str:
    with pytest.raises(ApplyError) as caught:
        read(written(folder, text), WHAT)
    return str(caught.value)


# --- reading ---


def test_a_file_is_a_table_for_each_endpoint(tmp_path: Path) -> None:
    """One file: `[endpoints.NAME]`, the same fields in snake_case."""
    (tmp_path / "input.schema.json").write_text('{"type": "object"}')
    path = written(
        tmp_path,
        f"""
        [endpoints.ep_document_gen]
        url = "{URL}"
        timeout_max = "12h"
        retry_on = ["unknown", 502]
        keep = {{ input = "1d" }}
        schema = "input.schema.json"
        headers = {{ Authorization = "Bearer env:DISPATCHER_UPSTREAM_TOKEN" }}

        [endpoints.shout]
        url = "{URL}"
        """,
    )
    found = read(path, WHAT)
    assert list(found) == ["ep_document_gen", "shout"]
    assert found["shout"] == EndpointRules(url=URL)
    one = found["ep_document_gen"]
    assert (one.timeout_max, one.keep.input) == (43_200, 86_400)
    assert one.retry_codes == frozenset({502})
    assert one.schema == InputSchema({"type": "object"})
    assert one.headers == (
        ("Authorization", LocalRef("env", "DISPATCHER_UPSTREAM_TOKEN", "Bearer ")),
    )


def test_an_empty_file_has_no_endpoints(tmp_path: Path) -> None:
    assert read(written(tmp_path, ""), WHAT) == {}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[endpoints.a\n", "is not TOML"),
        ("[endpoint.a]\n", "[endpoint] is no table of it, endpoints are; did you mean endpoints?"),
        ("endpoints = 3", "write a table [endpoints.NAME]"),
        ("[endpoints]\na = 3", "endpoints.a must be a table"),
        ('[endpoints."a.b"]\nurl = "x"', "[endpoints.a.b]: a name must be"),
        ("[endpoints.jobs]\n", "[endpoints.jobs]: a name is reserved"),
        ("[endpoints.a]\n", "[endpoints.a] url: is required"),
        (f"{A}timout = 3", "[endpoints.a] timout: is no field of an "
         "endpoint; did you mean timeout?"),
        (f"{A}queueTimeout = 3", "did you mean queue_timeout?"),
        (f"{A}keep.job = 'x'", "[endpoints.a] keep.job: must be seconds"),
        (f"{A}output_max = '300GiB'", "output_max: must be at most 256GiB"),
        (f"{A}timeout = 2026-01-31", "[endpoints.a] timeout: must be"),
        (f"{A}headers.x = 'env:PATH'", "[endpoints.a] headers.x: `env:`"),
        (f"{A}schema = 'none.json'", "[endpoints.a] schema: cannot read"),
        (f"{A}schema = 'postback.toml'", "is not JSON"),
        (f"{A}schema.type = 'x'", "[endpoints.a] schema.type:"),
    ],
)  # fmt: skip
def test_an_error_names_the_file_the_table_and_the_field(
    tmp_path: Path, text: str, says: str
) -> None:
    message = refused(tmp_path, text)
    assert "postback.toml" in message
    assert says in message


@pytest.mark.parametrize(
    ("text", "place", "parts"),
    [
        ("[endpoints.a\n", "endpoints", (None, None)),
        ("[endpoints]\na = 3", "endpoints.a", ("a", None)),
        ("[endpoints.a]\n", "endpoints.a.url", ("a", "url")),
        (f"{A}keep.job = 'x'", "endpoints.a.keep.job", ("a", "keep.job")),
        (f"{A}schema = 'none.json'", "endpoints.a.schema", ("a", "schema")),
        (f"{A}schema = 'postback.toml'", "endpoints.a.schema", ("a", "schema")),
    ],
)
def test_where_an_error_lies_is_told_apart_from_its_words(
    tmp_path: Path, text: str, place: str, parts: tuple[str | None, str | None]
) -> None:
    """For programs: the file, the endpoint and the field, so that none reads the sentence."""
    path = written(tmp_path, text)
    with pytest.raises(ApplyError) as caught:
        read(path, WHAT)
    error = caught.value
    assert (error.path, error.place, (error.endpoint, error.field)) == (path, place, parts)


def test_a_file_that_is_not_there_or_too_long_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ApplyError, match=r"DISPATCHER_APPLY: cannot read .*No such file"):
        read(str(tmp_path / "none.toml"), WHAT)
    many = "".join(f"[endpoints.e{n}]\n" for n in range(ENDPOINTS_MAX + 1))
    assert "at most" in refused(tmp_path, many)
    assert "is not TOML" in refused(tmp_path, "x = " + "[" * 100_000)


def test_the_file_of_the_guide_is_read(tmp_path: Path) -> None:
    guide = (Path(__file__).parents[3] / "dispatcher" / "README.md").read_text("utf-8")
    (text,) = re.findall(r"```toml\n(# postback\.toml\n.*?)```", guide, re.DOTALL)
    (tmp_path / "document-gen.schema.json").write_text("{}")
    found = read(written(tmp_path, text), WHAT)
    assert found["document-gen"].timeout == 900


# --- comparing ---

RULES: Final = EndpointRules(url=URL)


def endpoint(name: str, rules: EndpointRules = RULES, *, managed: bool = True) -> Endpoint:
    return Endpoint(
        name=name,
        rules=rules,
        text=dump_rules(rules),
        managed=managed,
        created_ms=NOW_MS,
        updated_ms=NOW_MS,
    )


def test_a_plan_creates_changes_and_removes_managed_ones() -> None:
    """A plan: create, change, remove managed ones that are not in the file any more."""
    current = [
        endpoint("same"),
        endpoint("other"),
        endpoint("gone"),
        endpoint("hand-made", managed=False),
        endpoint("taken", managed=False),
    ]
    wanted = {
        "same": RULES,
        "other": replace(RULES, attempts=9),
        "taken": RULES,
        "new": RULES,
    }
    assert plan_of(current, wanted) == Plan(
        create=("new",), change=("other", "taken"), remove=("gone",), same=("same",)
    )
    assert not plan_of([endpoint("same")], {"same": RULES}).changes
    assert changed_fields(RULES, replace(RULES, attempts=9, url="http://x/")) == ["url", "attempts"]


# --- putting in force ---


class Kept:
    """A store of endpoints in memory."""

    def __init__(self, *endpoints: Endpoint) -> None:
        self.by_name = {one.name: one for one in endpoints}
        self.entries: list[Entry] = []

    async def endpoints(self) -> Sequence[Endpoint]:
        return list(self.by_name.values())

    async def put_endpoint(
        self,
        new: Endpoint,
        *,
        create: bool,
        secret: SigningSecret | None = None,
        now_ms: int,
        entries: Sequence[Entry] = (),
    ) -> Endpoint:
        assert (secret is not None) is create
        if create and new.name in self.by_name:
            raise Conflict("taken")
        self.by_name[new.name] = new
        self.entries += entries
        return new

    async def remove_endpoint(
        self,
        name: str,
        *,
        managed: bool | None = None,
        now_ms: int,
        entries: Sequence[Entry] = (),
    ) -> None:
        if self.by_name.pop(name, None) is None:
            raise NotFound(name)
        self.entries += entries


ENTRY: Final = by_service(lambda: NOW_MS)


async def put(store: Any, wanted: dict[str, EndpointRules]) -> Plan:
    return await apply(store, wanted, now_ms=NOW_MS, entry=ENTRY)


async def test_what_was_planned_is_done_and_audited() -> None:
    store = Kept(endpoint("other"), endpoint("gone"), endpoint("hand-made", managed=False))
    await put(store, {"other": replace(RULES, attempts=9), "new": RULES})
    assert {one.name: (one.managed, one.rules.attempts) for one in store.by_name.values()} == {
        "other": (True, 9),
        "new": (True, 3),
        "hand-made": (False, 3),
    }
    told = [(one.action, one.target, one.detail) for one in store.entries]
    assert told == [
        ("endpoint.create", "new", {"managed": True}),
        ("endpoint.change", "other", {"managed": True, "fields": ["attempts"]}),
        ("endpoint.remove", "gone", {"managed": True}),
    ]
    assert not (await put(store, {"other": replace(RULES, attempts=9), "new": RULES})).changes
    assert len(store.entries) == 3


async def test_processes_that_start_at_once_find_it_done() -> None:
    class Late(Kept):
        """Shows what was there before another process made and removed something."""

        async def endpoints(self) -> Sequence[Endpoint]:
            if self.entries:
                return await super().endpoints()
            self.entries.append(ENTRY("endpoint.create", "new"))
            return [endpoint("gone")]

    store = Late(endpoint("new"))
    await put(store, {"new": RULES})
    assert [one.action for one in store.entries] == ["endpoint.create"]
    store = Late(endpoint("new", managed=False))
    await put(store, {"new": RULES})
    assert store.by_name["new"].managed


async def test_what_is_still_being_ended_is_a_conflict_and_the_rest_is_done() -> None:
    class Ending(Kept):
        async def put_endpoint(self, new: Endpoint, **more: Any) -> Endpoint:
            if new.name == "ending":
                raise Conflict("still being ended")
            return await super().put_endpoint(new, **more)

    store = Ending(endpoint("gone"))
    with pytest.raises(Conflict):
        await put(store, {"ending": RULES, "new": RULES})
    assert list(store.by_name) == ["new"]


# --- at start ---


def text_of(url: str = URL, more: str = "") -> str:
    return f'[endpoints.shout]\nurl = "{url}"\n{more}\n'


async def test_a_service_starts_with_the_endpoints_of_its_file(tmp_path: Path) -> None:
    """Also at start by `DISPATCHER_APPLY`; entries from it are marked managed."""
    path = written(tmp_path, text_of(more="concurrency = 2"))
    settings = settings_of(f"sqlite:///{tmp_path}/d.db", apply=path)
    async with Service(settings) as service:
        made = service.gateway.book.get("shout")
        assert made is not None
        assert (made.managed, made.rules.concurrency) == (True, 2)
    written(tmp_path, text_of(more="concurrency = 3"))
    async with Service(settings) as service:
        made = service.gateway.book.get("shout")
        assert made is not None
        assert made.rules.concurrency == 3
        trail = await service.store.audit_trail(EntryFilter(tenant=None), after=None, limit=10)
        told = [one.action for one in trail.entries if one.target == "shout"]
        assert told == ["endpoint.change", "endpoint.create"]
    written(tmp_path, "")
    async with Service(settings) as service:
        assert service.gateway.book.get("shout") is None


async def test_a_start_does_not_wait_for_what_is_still_being_ended(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Else nobody would end it: an endpoint that was removed with a backlog, and is back."""
    path = written(tmp_path, text_of(more="concurrency = 2") + text_of().replace("shout", "two"))
    settings = settings_of(f"sqlite:///{tmp_path}/d.db", apply=path, sweep_interval=3_600.0)
    async with Service(settings) as service:
        jobs = service.store.jobs
        await jobs.set_paused("shout", paused=True, now_ms=NOW_MS)
        await service.gateway.book.reload()
        await service.gateway.engine.submit(
            builders.job(at="shout", tenant="default", now_ms=NOW_MS)
        )
        await jobs.remove_endpoint("shout", now_ms=NOW_MS)
    settings = replace(settings, sweep_interval=0.05)
    async with Service(settings) as service:
        assert service.gateway.book.get("two") is not None
        assert "endpoints cannot be applied yet" in caplog.text
        async with asyncio.timeout(30):
            while (made := service.gateway.book.get("shout")) is None:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        assert made.rules.concurrency == 2


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (text_of("http://169.254.169.254/x"), "endpoints.shout.url: the address"),
        (text_of(more='headers.x = "env:DISPATCHER_UPSTREAM_NONE"'),
         "[endpoints.shout] headers.x: env:DISPATCHER_UPSTREAM_NONE: this variable is not set"),
        (text_of(more='headers.x = "file:none"'), "names no folder"),
        (text_of(more="attempts = 0"), "[endpoints.shout] attempts:"),
    ],
)  # fmt: skip
async def test_a_service_does_not_start_with_a_file_that_cannot_be_put_in_force(
    tmp_path: Path, text: str, says: str
) -> None:
    settings = settings_of(f"sqlite:///{tmp_path}/d.db", apply=written(tmp_path, text))
    with pytest.raises(ApplyError) as caught:
        await Service(settings).start()
    assert says in str(caught.value)
    assert "postback.toml" in str(caught.value)
