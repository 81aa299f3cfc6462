"""`dispatcher endpoints` and `dispatcher apply`, against a real service."""

import json
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from dispatcher.cli.endpoints import read_fields
from dispatcher.client import Client, NotFound
from tests.dispatcher.cli.conftest import Run
from tests.dispatcher.client.running import ADMIN_KEY, Running


@pytest.fixture
def name() -> str:
    """Endpoints are everybody's: each test has its own."""
    return f"e{uuid.uuid4().hex[:12]}"


@pytest.fixture
def clean(service: Running) -> Iterator[None]:
    """No endpoints come from a file before and after."""
    with Client(service.url, ADMIN_KEY) as admin:
        admin.apply_endpoints({})
        yield
        admin.apply_endpoints({})


def test_the_life_of_an_endpoint(cli: Run, service: Running, client: Client, name: str) -> None:
    """Every subcommand does what it says, and shows the result."""
    url = service.hook(200)
    made = cli("endpoints", "set", name, f"url={url}", "concurrency=2", "busy=429,503")
    assert made.code == 0, made.err
    assert "active" in made.out
    assert name in cli("endpoints", "list").out
    assert name in [one["name"] for one in cli("endpoints", "list", "--json").lines]
    changed = cli("endpoints", "set", name, "timeout=15m", "keep.output=1d", "concurrency=",
                  "headers.X-Token=hidden-value", "--json").json  # fmt: skip
    rules = changed["rules"]
    assert (rules["timeout"], rules["concurrency"], rules["busy"]) == ("15m", 4, [429, 503])
    assert (rules["keep"]["output"], changed["headerNames"]) == ("1d", ["X-Token"])
    assert "hidden-value" not in cli("endpoints", "show", name).out
    assert cli("endpoints", "pause", name, "--json").json["state"] == "paused"
    assert "0 that waited" in cli("endpoints", "purge", name, "--yes").out
    purged = cli("endpoints", "purge", name, "--all-tenants", "--no-callbacks", "--yes", "--json")
    assert purged.json == {"purged": 0}
    assert cli("endpoints", "resume", name, "--json").json["state"] == "active"
    assert cli("endpoints", "remove", name, "--yes").code == 0
    with pytest.raises(NotFound):
        client.get_endpoint(name)


def test_what_signs_its_calls_is_shown_and_rotated(cli: Run, service: Running, name: str) -> None:
    """Once when it is made, then by `endpoints secret` alone, and never by `show` or `list`."""
    made = cli("endpoints", "set", name, f"url={service.hook(200)}")
    shown = cli("endpoints", "secret", name)
    assert shown.code == 0, shown.err
    secret = shown.out.strip()
    assert secret.startswith("whsec_")
    assert secret in made.out
    for words in (("show", name), ("show", name, "--json"), ("list",), ("set", name, "rate=1")):
        assert secret not in cli("endpoints", *words).out
    rotated = cli("endpoints", "secret", name, "--rotate", "--overlap", "7d")
    assert rotated.code == 0, rotated.err
    assert rotated.out.strip() not in ("", secret)
    assert "the old one signs too" in rotated.err
    again = cli("endpoints", "secret", name, "--rotate")
    assert (again.code, "overlap has not ended" in again.err) == (1, True)
    forced = cli("endpoints", "secret", name, "--rotate", "--force", "--json").json
    assert cli("endpoints", "secret", name, "--json").json["secret"] == forced["secret"]
    assert cli("endpoints", "secret", name, "--overlap", "7d").code == 2


def test_a_test_shows_what_it_met(cli: Run, service: Running, name: str) -> None:
    """Exit 0 for a 2xx, 1 for anything else."""
    cli("endpoints", "set", name, f"url={service.hook(200)}")
    good = cli("endpoints", "test", name, "--input", '{"pages": 1}')
    assert good.code == 0, good.err
    assert "200 in" in good.out
    assert "\x1b" not in good.out
    cli("endpoints", "set", name, f"url={service.hook(503)}")
    assert cli("endpoints", "test", name).code == 1
    assert cli("endpoints", "test", name, "--json").json["statusCode"] == 503


def test_what_the_service_refuses_is_told_by_its_field(
    cli: Run, service: Running, name: str
) -> None:
    bad = cli("endpoints", "set", name, f"url={service.hook(200)}", "concurency=8")
    assert bad.code == 1
    assert "did you mean concurrency?" in bad.err
    assert cli("endpoints", "set", name, "concurrency=8").code == 1
    assert cli("endpoints", "set", name, "concurrency").code == 2
    assert cli("endpoints", "set", name, "rate=1", "rate=2").code == 2


def test_fields_are_read_as_they_are_typed() -> None:
    assert read_fields(
        ["rate=2.5", "queue_timeout=30m", "keep.input=1d", "keep.job=60", "retry_on=unknown,502",
         "adaptive=false", "timeout=", 'schema={"type": "object"}', "headers.x-y=5",
         "price.per_second=1", "tenants=[]", "functions=run", "body=NaN"]
    ) == {
        "rate": 2.5,
        "queueTimeout": "30m",
        "keep": {"input": "1d", "job": 60},
        "retryOn": ["unknown", 502],
        "adaptive": False,
        "timeout": None,
        "schema": {"type": "object"},
        "headers": {"x-y": "5"},
        "price": {"perSecond": 1},
        "tenants": [],
        "functions": ["run"],
        "body": "NaN",
    }  # fmt: skip


@pytest.mark.usefixtures("clean")
def test_a_file_is_applied(cli: Run, service: Running, tmp_path: Path, name: str) -> None:
    """`dispatcher apply -f postback.toml`."""
    file = tmp_path / "postback.toml"
    (tmp_path / "input.json").write_text(json.dumps({"type": "object"}))
    file.write_text(
        f'[endpoints.{name}]\nurl = "{service.hook(200)}"\nqueue_max = 7\nschema = "input.json"\n'
        "[endpoints.other]\nurl = 'http://127.0.0.1:9/'\n"
    )
    dry = cli("apply", "-f", str(file), "--dry-run")
    assert dry.code == 0, dry.err
    assert f"+ {name}" in dry.out
    assert "nothing was changed" in dry.out
    assert cli("apply", "-f", str(file), "--json").json["created"] == [name, "other"]
    shown = cli("endpoints", "show", name, "--json").json
    assert (shown["managed"], shown["rules"]["queueMax"]) == (True, 7)
    assert shown["rules"]["schema"] == {"type": "object"}
    refused = cli("endpoints", "set", name, "rate=1")
    assert refused.code == 1
    assert "comes from the file" in refused.err
    file.write_text(f'[endpoints.{name}]\nurl = "{service.hook(200)}"\n')
    done = cli("apply", "-f", str(file), "--yes")
    assert (done.code, "- other" in done.out, f"~ {name}" in done.out) == (0, True, True)


@pytest.mark.usefixtures("clean")
def test_a_file_that_cannot_be_read_is_told_by_its_table_and_field(
    cli: Run, tmp_path: Path
) -> None:
    file = tmp_path / "postback.toml"
    file.write_text("[endpoints.a]\nurl = 'http://127.0.0.1:9/'\ntimout = 3\n")
    bad = cli("apply", "-f", str(file))
    assert bad.code == 2
    assert "[endpoints.a] timout" in " ".join(bad.err.split())
    assert cli("apply", "-f", str(tmp_path / "none.toml")).code == 2
    table = "[endpoints.a]\nurl = 'http://127.0.0.1:9/'\n"
    file.write_text(f"{table}headers.x = 'env:DISPATCHER_UPSTREAM_X'\n")
    assert "the server's own file alone" in " ".join(cli("apply", "-f", str(file)).err.split())
    none = cli("apply")
    assert none.code == 1
    assert "DISPATCHER_APPLY" in none.err
