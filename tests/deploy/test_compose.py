"""The compose file: what its schema says, what hardens it, and its services at work together.

There is no engine here, so they run as processes: with the commands, the environment and the
secrets that the file and the images give them, made as the page says.
"""

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from dispatcher.demo.processes import free_ports
from tests.deploy import dockerfile
from tests.deploy.pages import PYTHON, TOOLS, environment
from tests.dispatcher.postgres.server import database
from tests.readme.documents import ROOT, blocks
from tests.sdk.installed import needs

FOLDER: Final = ROOT / "deploy" / "compose"
FILE: Final = FOLDER / "compose.yaml"
PAGE: Final = ROOT / "deploy" / "README.md"
OURS: Final = ("dispatcher-1", "dispatcher-2", "receiver")
NETWORK: Final = "172.30.86.0/24"
_WITHIN_S: Final = 60.0
_AS_JSON: Final = (
    "import json, sys; from ruamel.yaml import YAML;"
    "print(json.dumps(YAML(typ='safe').load(open(sys.argv[1]))))"
)


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    """What the file says, merged."""
    python = needs(TOOLS / "python")
    ran = subprocess.run([python, "-c", _AS_JSON, FILE], capture_output=True, check=True)
    document: dict[str, Any] = json.loads(ran.stdout)
    return document


def test_it_is_what_the_compose_specification_wants() -> None:
    """By its published schema."""
    check = needs(TOOLS / "check-jsonschema")
    words = [str(check), "--builtin-schema", "vendor.compose-spec", str(FILE)]
    ran = subprocess.run(words, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_no_service_may_do_more_than_it_needs(compose: dict[str, Any]) -> None:
    """A root that is read-only, no capability, no new privilege, a log that ends, and ports of this
    machine alone; and none is killed before it has come to its end."""
    assert {*compose["services"]} == {"postgres", *OURS}
    for name, service in compose["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert "cap_add" not in service, name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["logging"]["driver"] == "local", name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ())), name
    unit = (ROOT / "deploy" / "dispatcher" / "postback-dispatcher.service").read_text()
    for name in OURS[:2]:
        grace = compose["services"][name]["stop_grace_period"]
        assert f"TimeoutStopSec={grace.removesuffix('s')}\n" in unit


def test_secrets_are_files_and_stand_nowhere_else(compose: dict[str, Any]) -> None:
    """Each that a service gets is one that its environment names, and each is made by the page."""
    made = set(re.findall(r"secrets/([\w-]+)$|>secrets/([\w-]+)", setting_up(), re.MULTILINE))
    assert {*compose["secrets"]} == {one or other for one, other in made}
    for name, secret in compose["secrets"].items():
        assert secret == {"file": f"./secrets/{name}"}
    for name, service in compose["services"].items():
        named = [value for value in service["environment"].values() if "/run/secrets/" in value]
        assert sorted(named) == sorted(f"/run/secrets/{one}" for one in service["secrets"]), name
        for variable, value in service["environment"].items():
            assert variable.endswith("_FILE") == value.startswith("/run/secrets/"), variable


def test_the_dispatcher_reaches_this_network_and_no_other(compose: dict[str, Any]) -> None:
    assert compose["networks"]["default"]["ipam"]["config"] == [{"subnet": NETWORK}]
    for name in OURS[:2]:
        assert compose["services"][name]["environment"]["DISPATCHER_ALLOW_NETWORKS"] == NETWORK


def setting_up() -> str:
    """The page's commands, but for the engine's."""
    (block,) = [one for one in blocks(PAGE, "sh") if "secrets/signing-secret" in one]
    return "\n".join(line for line in block.splitlines() if not line.startswith(("docker", "cd ")))


@contextmanager
def started(
    service: dict[str, Any], folder: Path, more: dict[str, str], port: int
) -> Iterator["subprocess.Popen[bytes]"]:
    """One of our services, ready."""
    target = service["build"]["target"]
    every = dockerfile.stages(ROOT / "deploy" / "Dockerfile")
    image = dockerfile.configured(every, target, folder)
    given = {name: value for name, value in image.environment.items() if name != "PATH"}
    given |= service["environment"]
    given = {k: v.replace("/run/secrets/", f"{folder}/secrets/") for k, v in given.items()}
    given = {name: image.here(value) for name, value in given.items()}
    words = service.get("command", image.command)
    with (folder / f"{target}-{port}.log").open("wb") as log:
        process = subprocess.Popen(
            [str(PYTHON / words[0]), *words[1:]],
            cwd=folder,
            env=environment([PYTHON], {**given, **more}),
            stdout=log,
            stderr=log,
        )
    try:
        _wait_until_ready(port, process, Path(log.name))
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(_WITHIN_S)


def _wait_until_ready(port: int, process: "subprocess.Popen[bytes]", log: Path) -> None:
    words = ["curl", "-sf", "-o", os.devnull, f"http://127.0.0.1:{port}/readyz"]
    until = time.monotonic() + _WITHIN_S
    while subprocess.run(words, check=False).returncode:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < until, log.read_text()
        time.sleep(0.1)


def test_a_callback_to_either_reaches_the_handler(compose: dict[str, Any], tmp_path: Path) -> None:
    """As the page has it: secrets made, services started, one callback to each dispatcher, and the
    handler of `shop.py` prints both."""
    subprocess.run(["bash", "-euo", "pipefail", "-c", setting_up()], cwd=tmp_path, check=True)
    assert (tmp_path / "secrets").stat().st_mode & 0o777 == 0o700
    (tmp_path / "shop.py").write_bytes((FOLDER / "shop.py").read_bytes())
    (tmp_path / "data").mkdir()
    services, ports = compose["services"], dict(zip(OURS, free_ports(3), strict=True))
    (example,) = [one for one in blocks(PAGE, "sh") if one.startswith("curl ")]
    example = example[: example.index("docker ")].replace(
        "http://receiver:8700", f"http://127.0.0.1:{ports['receiver']}"
    )
    with database() as url, ExitStack() as stack:
        # The password of the file is for a server that asks for one.
        (tmp_path / "secrets" / "database-url").write_text(url)
        for name in OURS:
            half = name.partition("-")[0].upper()
            more = {f"{half}_PORT": str(ports[name]), f"{half}_HOST": "127.0.0.1"}
            if half == "DISPATCHER":
                more["DISPATCHER_ALLOW_NETWORKS"] = "127.0.0.0/8"
            stack.enter_context(started(services[name], tmp_path, more, ports[name]))
        for number, name in enumerate(OURS[:2]):
            pasted = example.replace(":8601", f":{ports[name]}").replace("job_1", f"job_{number}")
            ran = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", pasted],
                cwd=tmp_path,
                check=True,
                capture_output=True,
            )
            assert json.loads(ran.stdout)["jobId"] == f"job_{number}"
        log = tmp_path / f"receiver-{ports['receiver']}.log"
        until = time.monotonic() + _WITHIN_S
        expected = [f"job_{n} completed {{'pages': 50}}" for n in range(2)]
        while not all(line in log.read_text() for line in expected):
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.05)
