"""Who may import whom: the directions that keep each part readable, and testable, alone.

All imports count: those inside functions, and those for type checkers alone.
"""

import ast
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

import pytest

ROOT: Final = Path(__file__).parents[1]
PACKAGES: Final = ("dispatcher", "receiver")
BASE: Final = "receiver.base"

# The floors of the dispatcher, from the ground: a module imports what is on lower floors, and its
# own package.
FLOORS: Final = (
    "audit fairness filters headers health ids keys malformed outcome pace policy states tally "
    "values waiting",
    "jobs",
    "dialects",
    "settings",
    "store metrics wire",
    "wire_jobs",
    "access signing client",
    "gauges key_keeper quotas blobs",
    "sending",
    "engine",
    "intake",
    "gateway",
    "api",
    "app",
    "server",
    "supervisor",
    "demo",
    "cli",
    "__main__",
)
# Decisions: time and chance are arguments, and nothing waits.
DECISIONS: Final = ("dialects", "fairness", "filters", "headers", "health", "jobs", "outcome",
                    "pace", "policy", "states", "values", "waiting")  # fmt: skip
WAITING: Final = {"aiohttp", "aiosqlite", "asyncio", "http", "httpx", "msgspec", "os", "pathlib",
                  "psycopg", "random", "socket", "sqlite3", "ssl", "starlette", "subprocess",
                  "threading", "time", "urllib.request"}  # fmt: skip

DATABASES: Final = {"aiosqlite", "psycopg", "sqlite3"}
KEEP_DATA: Final = ("dispatcher.store", "receiver.base.db", "receiver.inbox",
                    "receiver.handling.effects",
                    "dispatcher.demo.customers")  # fmt: skip  # the last is code as a customer's
ENVIRONMENT: Final = ("os.environ", "os.getenv")
READ_ENVIRONMENT: Final = ("receiver.base.settings", "receiver.base.log",
                           "dispatcher.demo.processes")  # fmt: skip  # the last hands it on

# What does not hold yet. An entry that is not needed any more fails, so that this only shrinks.
NOT_YET: Final[set[str]] = set()


class Import(NamedTuple):
    """One module imports another, of ours or not."""

    importer: str
    target: str


@cache
def modules() -> dict[str, Path]:
    """Our modules by name."""
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    return {_name(path): path for path in files}


def _name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@cache
def tree_of(name: str) -> ast.Module:
    return ast.parse(modules()[name].read_text("utf-8"))


@cache
def imports() -> frozenset[Import]:
    """Every import of every module of ours. `from a import b` is of `a.b` where that is a module
    of ours, else of `a`."""
    return frozenset(
        Import(name, target) for name in modules() for target in _targets(name) if target != name
    )


def _targets(name: str) -> Iterator[str]:
    for node in ast.walk(tree_of(name)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv"):
            yield f"os.{node.attr}"
        elif isinstance(node, ast.ImportFrom):
            assert node.module, f"{name} imports relatively"
            for alias in node.names:
                within = f"{node.module}.{alias.name}"
                yield within if within in modules() else node.module


def under(name: str, *parents: str) -> bool:
    """Whether it is one of these modules, or in one of these packages."""
    return any(name == parent or name.startswith(f"{parent}.") for parent in parents)


@cache
def reached_from(start: str) -> frozenset[str]:
    """The modules of ours that it imports, directly or not."""
    direct = direct_imports()
    reached: set[str] = set()
    todo = [start]
    while todo:
        new = direct.get(todo.pop(), frozenset()) - reached
        reached |= new
        todo += new
    return frozenset(reached)


@cache
def direct_imports() -> dict[str, frozenset[str]]:
    return {
        name: frozenset(target for target in _targets(name) if target in modules())
        for name in modules()
    }


def part_of(name: str) -> str | None:
    """The module or package of the dispatcher it belongs to; None for the package itself, which
    holds the version, and for what is not of the dispatcher."""
    first, _, rest = name.partition(".")
    return rest.partition(".")[0] or None if first == "dispatcher" else None


def floor_of(part: str) -> int:
    floors = [number for number, parts in enumerate(FLOORS) if part in parts.split()]
    assert floors, f"dispatcher/{part} has no floor yet: give it one in FLOORS"
    return floors[0]


# --- the rules: whether an import breaks it ---


def the_base_stands_alone(one: Import) -> bool:
    """What both halves share knows neither."""
    ours = under(one.target, *PACKAGES)
    return ours and under(one.importer, BASE) and not under(one.target, BASE)


def the_receiver_knows_no_dispatcher(one: Import) -> bool:
    """Customers install it without."""
    return under(one.importer, "receiver") and under(one.target, "dispatcher")


def the_dispatcher_uses_the_base_and_the_signature(one: Import) -> bool:
    """Of the receiver nothing else; the demo plays a customer, who uses what he installs."""
    if not under(one.importer, "dispatcher") or under(one.importer, "dispatcher.demo"):
        return False
    return under(one.target, "receiver") and not under(one.target, BASE, "receiver.signature")


def the_signature_needs_the_standard_library_alone(one: Import) -> bool:
    """It is verified where nothing is installed, and may be copied as one file."""
    top = one.target.partition(".")[0]
    return one.importer == "receiver.signature" and top not in sys.stdlib_module_names


def parts_import_what_is_below_them(one: Import) -> bool:
    """Values and decisions, store, sending, engine, intake, API, app."""
    importer, target = part_of(one.importer), part_of(one.target)
    if not importer or not target or importer == target:
        return False
    beside_on_the_ground = floor_of(importer) == floor_of(target) == 0
    return floor_of(importer) <= floor_of(target) and not beside_on_the_ground


def decisions_do_not_wait(one: Import) -> bool:
    """What decides is tested with nothing but arguments."""
    deciding = under(one.importer, *(f"dispatcher.{part}" for part in DECISIONS))
    return deciding and under(one.target, *WAITING)


def only_stores_know_a_database(one: Import) -> bool:
    """The rest calls their verbs."""
    return under(one.target, *DATABASES) and not under(one.importer, *KEEP_DATA)


def only_sending_knows_the_client_of_deliveries(one: Import) -> bool:
    """The rest gets outcomes."""
    return under(one.target, "aiohttp") and not under(one.importer, "dispatcher.sending")


def only_settings_read_the_environment(one: Import) -> bool:
    """So that the table of settings is all there is to set."""
    return one.target in ENVIRONMENT and not under(one.importer, *READ_ENVIRONMENT)


def nothing_imports_itself_through_others(one: Import) -> bool:
    """A circle is one module in several files."""
    return one.importer in reached_from(one.target)


RULES: Final = (
    the_base_stands_alone,
    the_receiver_knows_no_dispatcher,
    the_dispatcher_uses_the_base_and_the_signature,
    the_signature_needs_the_standard_library_alone,
    parts_import_what_is_below_them,
    decisions_do_not_wait,
    only_stores_know_a_database,
    only_sending_knows_the_client_of_deliveries,
    only_settings_read_the_environment,
    nothing_imports_itself_through_others,
)


def broken(rule: Callable[[Import], bool]) -> set[str]:
    return {f"{one.importer} -> {one.target}" for one in imports() if rule(one)}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule.__name__))
def test_imports_point_one_way(rule: Callable[[Import], bool]) -> None:
    assert not broken(rule) - NOT_YET, rule.__doc__


def test_what_is_allowed_for_now_is_still_needed() -> None:
    assert set[str]().union(*map(broken, RULES)) >= NOT_YET, "take it off the list"
