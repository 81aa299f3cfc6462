"""What a thief of a database finds in it: known values, looked for in files as plain bytes, in
every encoding that we use anywhere. Values should be random, so that nothing compresses them away;
and a test should see them found where nothing is sealed, or it proves nothing."""

import base64
import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote

import httpx

ADMIN_KEY: Final = "fake-admin-key-for-thieves"
KEY: Final = "k1:" + base64.b64encode(bytes(range(7, 39))).decode()
NEXT_KEY: Final = "k2:" + base64.b64encode(bytes(range(107, 139))).decode()
_FORM_BYTES_MIN: Final = 12  # a shorter part of an encoding may stand anywhere by chance
_END_S: Final = 30.0


def marker() -> str:
    """A value that stands nowhere else, with what encodings change."""
    return f"mark-{secrets.token_hex(12)}-\u00fc/+ &\u20ac"


def forms(value: str | bytes) -> dict[str, bytes]:
    """A value as it may stand in a file."""
    raw = value if isinstance(value, bytes) else value.encode()
    found = {"bytes": raw, "hex": raw.hex().encode(), "HEX": raw.hex().upper().encode()}
    found["percent"] = quote(raw, safe="").encode()
    found["percent, lower"] = quote(raw, safe="").lower().encode()
    for offset in range(3):
        found[f"base64 at {offset}"] = part = _base64_at(raw, offset)
        found[f"base64url at {offset}"] = part.replace(b"+", b"-").replace(b"/", b"_")
    if isinstance(value, str):
        found |= {"utf-16-le": value.encode("utf-16-le"), "utf-16-be": value.encode("utf-16-be")}
        found["json"] = json.dumps(value)[1:-1].encode()
        found["json in json"] = json.dumps(json.dumps(value)[1:-1])[1:-1].encode()
        found["percent in json"] = quote(json.dumps(value)[1:-1], safe="").encode()
    return {name: form for name, form in found.items() if len(form) >= _FORM_BYTES_MIN}


def _base64_at(raw: bytes, offset: int) -> bytes:
    """The part of a base64 text that is the same whatever stands before and behind the value."""
    encoded = base64.b64encode(bytes(offset) + raw)
    first = (offset * 8 + 5) // 6
    return encoded[first : (offset + len(raw)) * 8 // 6]


def found(values: Iterable[str | bytes], *places: Path) -> list[str]:
    """Where values stand in files, or in all files of folders: which form of which, in what."""
    wanted = [
        (number, name, form)
        for number, value in enumerate(values)
        for name, form in forms(value).items()
    ]
    hits = []
    for file in files(places):
        content = file.read_bytes()
        hits += [
            f"value {number} as {name} in {file.name} at {content.index(form)}"
            for number, name, form in wanted
            if form in content
        ]
    return hits


def files(places: Iterable[Path]) -> Iterator[Path]:
    """Every file of these, folders walked."""
    for place in places:
        if place.is_dir():
            yield from (one for one in sorted(place.rglob("*")) if one.is_file())
        elif place.exists():
            yield place


def beside(database: Path) -> list[Path]:
    """A SQLite database with all that SQLite keeps beside it; not our key file."""
    ends = ("", "-wal", "-shm", "-journal")
    return [one for end in ends if (one := database.with_name(database.name + end)).exists()]


@dataclass(frozen=True, slots=True)
class Served:
    """A dispatcher as a process: a client with the admin key, and where its log goes."""

    client: httpx.Client
    log: Path
    process: subprocess.Popen[str]


@contextmanager
def served(database_url: str, log: Path, **settings: str) -> Iterator[Served]:
    """A dispatcher on this database, its log appended to a file; killed at the end, so that files
    stay as work left them."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("DISPATCHER_")}
    given = {
        "DATABASE_URL": database_url,
        "PORT": "0",
        "ADMIN_KEY": ADMIN_KEY,
        "ALLOW_NETWORKS": "127.0.0.0/8",
        "LEASE_MARGIN": "1",
        "SWEEP_INTERVAL": "0.2",
        "LOG_LEVEL": "debug",
        **settings,
    }
    env |= {f"DISPATCHER_{name}": value for name, value in given.items()}
    env["PYTHONPATH"] = os.pathsep.join([os.getcwd(), *filter(None, [env.get("PYTHONPATH")])])
    with (
        log.open("a") as stderr,
        subprocess.Popen(
            [sys.executable, "-m", "dispatcher", "serve"],
            env=env,
            text=True,
            stdout=subprocess.PIPE,
            stderr=stderr,
        ) as process,
    ):
        try:
            assert process.stdout is not None
            said = process.stdout.readline()
            assert said.startswith("listening on "), log.read_text()
            headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
            url = said.removeprefix("listening on ").strip()
            client = httpx.Client(base_url=url, headers=headers, trust_env=False, timeout=_END_S)
            with client:
                yield Served(client, log, process)
        finally:
            process.kill()
