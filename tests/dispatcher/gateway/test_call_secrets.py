"""What calls are signed with: each endpoint's own secret, on real sockets and both databases."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dispatcher.access import new_secret
from dispatcher.gateway.apply import ApplyError
from dispatcher.store.errors import NotFound
from receiver.base.clock import now_ms
from receiver.signature import SignatureError, generate_secret, verify
from tests.dispatcher.gateway.rig import SECRET, World, running, upstream
from tests.theft import NEXT_KEY

Call = tuple[dict[str, str], bytes]


async def current(world: World, name: str = "ep") -> str:
    """What signs an endpoint's calls now."""
    (signs,) = (
        one.value for one in await world.service.gateway.secrets.all_of(name) if not one.expires_ms
    )
    return signs


def holds(call: Call, secret: str) -> bool:
    """Whether its upstream verifies a call by this secret, in both schemes."""
    headers, body = call
    try:
        for require in ("standard", "any"):
            now_s = int(headers["webhook-timestamp"])
            assert verify(body, headers, secret, now_s=now_s, require=require)
    except SignatureError:
        return False
    return True


async def test_each_endpoint_has_a_secret_of_its_own(database: str) -> None:
    """Who operates one upstream, and so verifies calls, can forge neither another's calls nor a
    tenant's callbacks."""
    async with upstream() as model, upstream() as other, running(database) as world:
        await world.endpoint(model.url)
        await world.endpoint(other.url, "other")
        await world.submit()
        await world.submit(at="other")
        await model.reached(1)
        await other.reached(1)
        own, others = await current(world), await current(world, "other")
        assert holds(model.calls[0], own)
        assert holds(other.calls[0], others)
        assert not holds(model.calls[0], others)
        assert not holds(model.calls[0], SECRET)
        assert len({own, others, SECRET}) == 3


async def test_it_is_rotated_with_an_overlap(database: str) -> None:
    """Both sign until the overlap ends; then the new one alone."""
    async with upstream() as model, running(database) as world:
        await world.endpoint(model.url)
        await world.submit()
        await model.reached(1)
        before = await current(world)
        for count, overlap_ms, signs_too in ((2, 60_000, True), (3, 0, False)):
            new = new_secret("", now_ms(), endpoint="ep")
            await world.service.store.jobs.rotate_endpoint_secret(
                new, overlap_ms=overlap_ms, force=True, now_ms=now_ms()
            )
            world.service.gateway.secrets.forget("ep")
            await world.submit(f"{count}".encode())
            await model.reached(count)
            call = model.calls[-1]
            assert holds(call, new.value)
            assert holds(call, before) is signs_too
            before = new.value


async def test_one_of_before_gets_a_secret_at_its_first_use(database: str) -> None:
    """An endpoint that an earlier version made has none: one is made, whoever asks first, and
    however many do."""
    async with upstream() as model, running(database) as world:
        await world.endpoint(model.url, concurrency=8, adaptive=False)
        store = world.service.store.jobs
        assert await store.endpoint_secrets("ep") == []
        async with asyncio.TaskGroup() as group:
            for _ in range(4):
                group.create_task(world.service.gateway.secrets.all_of("ep"))
            for n in range(4):
                group.create_task(world.submit(f"{n}".encode()))
        await model.reached(4)
        (made,) = await store.endpoint_secrets("ep")
        assert all(holds(call, made.value) for call in model.calls)


async def test_processes_that_ask_at_once_get_one_secret(postgres: str) -> None:
    """Whichever is first makes it; what the other made is nowhere."""
    async with running(postgres) as one, running(postgres) as other:
        await one.endpoint("http://127.0.0.1:9/")
        books = [world.service.gateway.secrets for world in (one, other)]
        found = await asyncio.gather(*(book.all_of("ep") for book in books * 4))
        assert len({secret.value for secrets in found for secret in secrets}) == 1


async def test_another_process_signs_with_what_one_has_rotated(postgres: str) -> None:
    """News of a rotation reaches all: no call goes out that the new secret does not verify."""
    async with upstream() as model, running(postgres) as one, running(postgres) as other:
        await one.endpoint(model.url)
        await other.service.gateway.book.reload()
        await other.submit()
        await model.reached(1)
        new = new_secret("", now_ms(), endpoint="ep")
        await one.service.store.jobs.rotate_endpoint_secret(
            new, overlap_ms=0, force=False, now_ms=now_ms()
        )

        async def signs() -> bool:
            called = len(model.calls)
            await other.submit()
            await model.reached(called + 1)
            return holds(model.calls[-1], new.value)

        await other.until(signs)


async def test_a_name_that_is_given_again_gets_another_secret(database: str) -> None:
    """Who had the removed endpoint's secret can verify, and forge, nothing of the new one."""
    async with upstream() as model, running(database) as world:
        await world.endpoint(model.url)
        before = await current(world)
        store = world.service.store.jobs
        await store.remove_endpoint("ep", now_ms=now_ms())
        with pytest.raises(NotFound):
            await store.endpoint_secrets("ep")

        async def made_again() -> bool:
            try:
                await world.endpoint(model.url)
            except Exception:
                return False
            return True

        await world.until(made_again)
        await world.submit()
        await model.reached(1)
        assert not holds(model.calls[0], before)
        assert holds(model.calls[0], await current(world))


async def test_a_call_that_cannot_be_signed_does_not_go_out(database: str) -> None:
    """A secret that no key of ours opens is our own lack: no try is spent, nothing goes out
    unsigned."""
    async with upstream() as model:
        async with running(database) as world:
            await world.endpoint(model.url)
            await current(world)
        async with running(database, encryption_keys=NEXT_KEY) as world:
            taken = await world.submit()

            async def is_back() -> bool:
                job = await world.get(taken.id)
                return job.state == "queued" and world.figure("own_faults_total") >= 1

            await world.until(is_back)
            assert (await world.get(taken.id)).calls == 0
            assert model.calls == []


@pytest.fixture
def file(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Writes a file of endpoints, and returns the settings that name it."""

    def write(url: str, signing_secret: str) -> dict[str, Any]:
        path = tmp_path / "postback.toml"
        quoted = json.dumps(signing_secret)
        path.write_text(f'[endpoints.ep]\nurl = "{url}"\nsigning_secret = {quoted}\n')
        folder = tmp_path / "secrets"
        folder.mkdir(exist_ok=True)
        return {"apply": str(path), "upstream_secrets": str(folder)}

    return write


async def test_the_servers_file_says_where_one_stands(
    database: str, file: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    """As headers' values do: `file:` and `env:`; two of them sign during a rotation, and nothing of
    them is in the database."""
    new, old = generate_secret(), generate_secret()
    async with upstream() as model:
        settings = file(model.url, "file:signing")
        (tmp_path / "secrets" / "signing").write_text(f"{new}, {old}\n")
        async with running(database, **settings) as world:
            await world.submit()
            await model.reached(1)
            assert holds(model.calls[0], new)
            assert holds(model.calls[0], old)
            assert await world.service.store.jobs.endpoint_secrets("ep") == []


async def test_one_of_the_environment_signs(
    database: str, file: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = generate_secret()
    monkeypatch.setenv("DISPATCHER_UPSTREAM_SIGNS", secret)
    async with upstream() as model:
        settings = file(model.url, "env:DISPATCHER_UPSTREAM_SIGNS")
        async with running(database, **settings) as world:
            await world.submit()
            await model.reached(1)
            assert holds(model.calls[0], secret)


@pytest.mark.parametrize(
    ("held", "reason"),
    [
        ("", "one line of ASCII"),
        ("too-short", "each signing secret must be whsec_"),
        ("not base64 of anything", "each signing secret must be whsec_"),
        (", ".join(generate_secret() for _ in range(3)), "one signing secret, or the new and"),
        (None, "No such file"),
    ],
)
async def test_a_file_that_names_what_cannot_sign_is_not_applied(
    tmp_path: Path, file: Callable[..., dict[str, Any]], held: str | None, reason: str
) -> None:
    """The start says which endpoint, which field and why, and never what it read."""
    settings = file("http://127.0.0.1:9/", "file:signing")
    if held is not None:
        (tmp_path / "secrets" / "signing").write_text(held)
    with pytest.raises(ApplyError, match=reason) as caught:
        async with running(f"sqlite:///{tmp_path}/jobs.db", **settings):
            pass
    assert "[endpoints.ep] signing_secret: file:signing" in str(caught.value)
    assert not held or held not in str(caught.value)


@pytest.mark.parametrize(
    "given",
    [SECRET, "secret:signing", "Bearer file:signing", "env:PATH", "file::x", 5, ["file:signing"]],
)
async def test_a_file_holds_no_secret_itself(
    tmp_path: Path, file: Callable[..., dict[str, Any]], given: Any
) -> None:
    """Where it stands, and nothing else; what was given may be one, and is in no message."""
    settings = file("http://127.0.0.1:9/", given)
    with pytest.raises(ApplyError, match="signing_secret: ") as caught:
        async with running(f"sqlite:///{tmp_path}/jobs.db", **settings):
            pass
    assert SECRET not in str(caught.value)


async def test_every_applied_endpoint_is_made_with_one(database: str, tmp_path: Path) -> None:
    """As those that are made through the API: before its first call."""
    path = tmp_path / "postback.toml"
    path.write_text('[endpoints.ep]\nurl = "http://127.0.0.1:9/"\n')
    async with running(database, apply=str(path)) as world:
        (made,) = await world.service.store.jobs.endpoint_secrets("ep")
        assert made.value.startswith("whsec_")
