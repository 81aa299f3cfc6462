"""The systemd units: what a crash, a stranger in the process, or a mistake in the file may cost."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

from tests.readme.documents import ROOT

UNITS: Final = (
    ROOT / "deploy" / "dispatcher" / "postback-dispatcher.service",
    ROOT / "deploy" / "receiver" / "receiver.service",
)
RATING_MAX: Final = 2.0  # of 10: systemd's own measure of what a service may do to its machine
# Held also where no systemd rates it. The values are those that its rating wants.
HARDENED: Final = {
    "DynamicUser": "yes",
    "UMask": "0077",
    "StateDirectoryMode": "0700",
    "NoNewPrivileges": "yes",
    "CapabilityBoundingSet": "",
    "AmbientCapabilities": "",
    "PrivateUsers": "yes",
    "PrivateTmp": "yes",
    "PrivateDevices": "yes",
    "DevicePolicy": "closed",
    "ProtectSystem": "strict",
    "ProtectHome": "yes",
    "ProtectProc": "invisible",
    "ProcSubset": "pid",
    "ProtectClock": "yes",
    "ProtectHostname": "yes",
    "ProtectControlGroups": "yes",
    "ProtectKernelLogs": "yes",
    "ProtectKernelModules": "yes",
    "ProtectKernelTunables": "yes",
    "LockPersonality": "yes",
    "MemoryDenyWriteExecute": "yes",
    "RestrictNamespaces": "yes",
    "RestrictRealtime": "yes",
    "RestrictSUIDSGID": "yes",
    "RestrictAddressFamilies": "AF_INET AF_INET6 AF_UNIX",
    "SystemCallArchitectures": "native",
}
unit = pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.stem)


def sections(unit: Path) -> dict[str, list[tuple[str, str]]]:
    """What stands in each section, in order."""
    found: dict[str, list[tuple[str, str]]] = {}
    for line in unit.read_text("utf-8").splitlines():
        if line.startswith("["):
            found[line.strip("[]")] = []
        elif line and not line.startswith("#"):
            name, _, value = line.partition("=")
            found[list(found)[-1]].append((name, value))
    return found


@unit
def test_it_is_started_again_however_often_it_crashes(unit: Path) -> None:
    """The limit of starts is lifted in [Unit], where alone systemd reads it: after five crashes
    within ten seconds the service would stay away."""
    parts = sections(unit)
    assert ("StartLimitIntervalSec", "0") in parts["Unit"]
    assert not [name for name, _ in parts["Service"] if name.startswith("StartLimit")]
    assert ("Restart", "always") in parts["Service"]


@unit
def test_it_may_do_what_it_needs_and_no_more(unit: Path) -> None:
    """Every directive that its rating rests on, each once."""
    service = sections(unit)["Service"]
    names = [name for name, _ in service]
    assert {name: value for name, value in service if name in HARDENED} == HARDENED
    assert [name for name in HARDENED if names.count(name) != 1] == []
    filters = [value for name, value in service if name == "SystemCallFilter"]
    assert filters == ["@system-service", "~@privileged"]


@unit
def test_systemd_rates_it_as_well_closed(unit: Path) -> None:
    """By `systemd-analyze security`, which reads the file alone."""
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("there is no systemd-analyze on this machine, so the units are not rated")
    ran = subprocess.run(
        [analyze, "security", "--offline=true", "--no-pager", str(unit)],
        capture_output=True,
        text=True,
        check=False,
    )
    if "--offline" in ran.stderr:
        pytest.skip("this systemd-analyze cannot rate a file: it is older than 250")
    rated = re.search(r"Overall exposure level for \S+: ([\d.]+)", ran.stdout)
    assert rated, ran.stdout + ran.stderr
    assert float(rated[1]) < RATING_MAX, ran.stdout
