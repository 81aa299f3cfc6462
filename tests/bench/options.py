"""What `python -m tests.bench` can be asked for."""

import argparse
import base64
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from tests.bench.attack import BUSY, HOLDING

PARTS: Final = (1, 2, 3, 4, 5, 6, 7, 8)
STORES: Final = {
    "sqlite": ("sqlite",),
    "postgres": ("postgres",),
    "both": ("sqlite", "postgres"),
}
ATTACKS: Final = (*HOLDING, *BUSY)
_KEY: Final = "bench:" + base64.b64encode(bytes(range(32))).decode()
SHARED: Final = 5  # the part that takes a database which processes can share
# A fill of a million takes minutes there, and a fifth of it shows as well whether cost grows.
_POSTGRES_SHARE: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Sizes of a run. `silence_seconds` is the length of each run of part 3: to see what comes
    after the silent destinations' first time-outs, it takes more than the policy's timeout."""

    parts: tuple[int, ...]
    stores: tuple[str, ...]
    seconds: float
    warm_up: float
    rounds: int
    silence_seconds: float
    backlog: int
    in_flight: int
    attacks: tuple[str, ...]
    attack_scale: float
    open_calls: int
    looks: int
    json_path: Path
    directory: Path | None
    sealed: bool = False

    @property
    def settings(self) -> dict[str, str]:
        """What the dispatchers of all parts are given beside the rest."""
        if not self.sealed:
            return {}
        return {"encryption_keys": _KEY, "encrypt_payloads": "on"}

    def backlog_of(self, store: str) -> int:
        """How many deliveries are held in part 4 on this store."""
        return self.backlog // _POSTGRES_SHARE if store == "postgres" else self.backlog

    def without_postgres(self) -> "Options":
        """The same run on SQLite alone."""
        parts = tuple(part for part in self.parts if part != SHARED)
        return replace(self, stores=STORES["sqlite"], parts=parts)


def parse(arguments: Sequence[str] | None = None) -> Options:
    """The options of a command line; leaves with a usage message where they make no sense."""
    parser = _parser()
    given = parser.parse_args(arguments)
    stores = STORES[given.store]
    quick = (2.0, 1, 8.0, 50_000, 500, 200)
    seconds, rounds, silence, backlog, open_calls, looks = (
        quick if given.quick else (3.0, 3, 18.0, 1_000_000, 2_000, 1_000)
    )
    options = Options(
        parts=given.parts
        or tuple(part for part in PARTS if part != SHARED or "postgres" in stores),
        stores=stores,
        seconds=_or(given.seconds, seconds),
        warm_up=given.warm_up,
        rounds=_or(given.rounds, rounds),
        silence_seconds=_or(given.silence_seconds, silence),
        backlog=_or(given.backlog, backlog),
        in_flight=given.in_flight,
        attacks=given.attacks or ATTACKS,
        attack_scale=given.attack_scale,
        open_calls=_or(given.open_calls, open_calls),
        looks=_or(given.looks, looks),
        json_path=given.json,
        directory=given.dir,
        sealed=given.sealed,
    )
    if SHARED in options.parts and "postgres" not in stores:
        parser.error(f"part {SHARED} is about PostgreSQL: add --store postgres, or both")
    if min(options.seconds, options.silence_seconds) <= 0 or options.warm_up < 0:
        parser.error("times must be positive")
    if (
        min(options.rounds, options.in_flight, options.open_calls, options.looks) < 1
        or options.backlog < 0
    ):
        parser.error("numbers must be positive")
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench",
        description="Measures the dispatcher on this machine, prints a table and writes JSON. "
        "Nothing here passes or fails on time.",
    )
    add = parser.add_argument
    add("--parts", type=_parts, metavar="1,2,…", help="which parts to run (all; 5: on PostgreSQL)")
    add("--store", choices=STORES, default="sqlite", help="what parts 1 to 4 measure (sqlite)")
    add("--quick", action="store_true", help="under two minutes instead of eight")
    add("--seconds", type=float, metavar="S", help="length of a measured round (3; quick: 2)")
    add("--warm-up", type=float, default=1.0, metavar="S", help="before each round (1)")
    add("--rounds", type=int, metavar="N", help="rounds, of which medians are shown (3; quick: 1)")
    add("--silence-seconds", type=float, metavar="S", help="a run of part 3 (18; quick: 8)")
    add(
        "--backlog",
        type=int,
        metavar="N",
        help="held deliveries in part 4 (1000000; quick: 50000); a fifth of it on PostgreSQL",
    )
    add("--in-flight", type=int, default=256, metavar="N", help="callbacks in flight (256)")
    add(
        "--attacks",
        type=_attacks,
        metavar="A,B,…",
        help=f"of part 7: {', '.join(ATTACKS)} (all); A+B: at once",
    )
    add("--attack-scale", type=float, default=1.0, metavar="X", help="size of part 7's attacks (1)")
    add(
        "--open-calls",
        type=int,
        metavar="N",
        help="calls that wait in part 8 (2000; quick: 500)",
    )
    add(
        "--looks",
        type=int,
        metavar="N",
        help="how often part 8 asks for a status, for a load, and waits (1000; quick: 200)",
    )
    add(
        "--json",
        type=Path,
        default=Path(tempfile.gettempdir()) / "postback-bench.json",
        metavar="PATH",
        help="where the figures go (the system's temporary directory)",
    )
    add("--sealed", action="store_true", help="with payloads sealed in the database")
    add("--dir", type=Path, metavar="PATH", help="where the databases are made, and removed again")
    return parser


def _parts(text: str) -> tuple[int, ...]:
    try:
        parts = tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        parts = ()
    if not parts or not set(parts) <= set(PARTS):
        raise argparse.ArgumentTypeError("takes numbers from 1 to 8, such as 1,3")
    return parts


def _attacks(text: str) -> tuple[str, ...]:
    attacks = tuple(text.split(","))
    if not {one for attack in attacks for one in attack.split("+")} <= set(ATTACKS):
        raise argparse.ArgumentTypeError(f"takes names of {', '.join(ATTACKS)}")
    return attacks


def _or(given: Any, default: Any) -> Any:
    return default if given is None else given
