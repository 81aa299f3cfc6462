"""strays.py: what looks like a setting and is none is told, with what was probably meant."""

import logging

import pytest

from receiver.base.log import Fields, Log
from receiver.base.strays import TOLD_MAX, Strays, find_strays

KNOWN = frozenset(
    f"HALF_{name}{end}"
    for name in ("ADMIN_KEY", "DATABASE_URL", "PORT", "SLOTS", "SECRETS", "SOURCES_FILE")
    for end in ("", "_FILE")
)
# What Kubernetes puts beside a Service `half` with the port `http`.
LINKS = {
    "HALF_SERVICE_HOST": "10.0.0.1",
    "HALF_SERVICE_PORT": "8600",
    "HALF_SERVICE_PORT_HTTP": "8600",
    "HALF_PORT": "tcp://10.0.0.1:8600",
    "HALF_PORT_8600_TCP": "tcp://10.0.0.1:8600",
    "HALF_PORT_8600_TCP_PROTO": "tcp",
    "HALF_PORT_8600_TCP_PORT": "8600",
    "HALF_PORT_8600_TCP_ADDR": "10.0.0.1",
}


def strays(*names: str, **environ: str) -> Strays:
    return find_strays("HALF_", KNOWN, dict.fromkeys(names, "hidden") | environ)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("HALF_ADMINKEY", "HALF_ADMIN_KEY"),
        ("HALF_ADMIN_KEYS", "HALF_ADMIN_KEY"),
        ("HALF_ADMIN_KEY_FIEL", "HALF_ADMIN_KEY_FILE"),
        ("HALF_SECRET", "HALF_SECRETS"),
        ("HALF_SECRET_FILE", "HALF_SECRETS_FILE"),
        ("HALF_SOURCES", "HALF_SOURCES_FILE"),
        ("HALF_DATABASE", "HALF_DATABASE_URL"),
        ("HALF_MAX_SLOTS", "HALF_SLOTS"),
        ("half_port", "HALF_PORT"),
        ("Half_Slots", "HALF_SLOTS"),
        ("HALF_COLOUR", None),
        ("HALF_", None),
    ],
)
def test_a_misspelt_name_is_found_with_the_nearest_one(name: str, nearest: str | None) -> None:
    """Only where one is near."""
    assert strays(name).unknown == ((name, nearest),)


def test_what_is_read_and_what_is_not_ours_is_none() -> None:
    """Nor is what our own tests read."""
    ours = ("HALF_ADMIN_KEY", "HALF_ADMIN_KEY_FILE", "HALF_SOURCES_FILE_FILE", "HALF_TEST_URL")
    assert strays(*ours, "PORT", "OTHERHALF_X", "HALFX", "PATH") == Strays()


def test_the_links_of_a_service_are_told_together() -> None:
    """Not as misspelt names; a port that is one is told where it is read."""
    found = strays("HALF_SLOT", **LINKS)
    assert found.links == (("half", 7),)
    assert found.unknown == (("HALF_SLOT", "HALF_SLOTS"),)


def test_each_service_whose_name_begins_like_ours_is_told() -> None:
    """`half-metrics` makes HALF_METRICS_…."""
    more = {name.replace("HALF_", "HALF_METRICS_"): value for name, value in LINKS.items()}
    assert strays(**LINKS, **more).links == (("half-metrics", 8), ("half", 7))


def test_what_only_looks_like_a_link_is_a_misspelt_name() -> None:
    """A Service tells its host, or an address as a URL."""
    found = strays(HALF_SERVICE_PORT="8600", HALF_METRICS_PORT="9000")
    assert found.links == ()
    assert [name for name, _ in found.unknown] == ["HALF_METRICS_PORT", "HALF_SERVICE_PORT"]


class Told(Log):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__("receiver")
        self.lines: list[dict[str, object]] = []

    def _write(
        self, level: int, event: str, fields: Fields, error: BaseException | None = None
    ) -> None:
        self.lines.append({"level": level, "event": event, **fields})


def lines(found: Strays) -> list[dict[str, object]]:
    told = Told()
    found.tell(told)
    return told.lines


def test_each_is_warned_of_once_without_its_value() -> None:
    told = lines(strays("HALF_SLOT", "HALF_COLOUR", **LINKS))
    assert [one["level"] for one in told] == [logging.WARNING] * 3
    assert [one.get("variable") for one in told] == [None, "HALF_COLOUR", "HALF_SLOT"]
    assert told[0]["service"] == "half"
    assert "enableServiceLinks: false" in str(told[0]["advice"])
    assert "nearest" not in told[1]
    assert told[2]["nearest"] == "HALF_SLOTS"
    assert not {"hidden", "10.0.0.1"} & {part for one in told for part in map(str, one.values())}


def test_warnings_are_bounded_whatever_the_environment_holds() -> None:
    """In number and in length (I7)."""
    told = lines(strays(*(f"HALF_{n:04}_{'X' * 5_000}" for n in range(1_000))))
    assert len(told) == TOLD_MAX + 1
    assert told[-1]["count"] == 1_000 - TOLD_MAX
    assert max(len(str(one)) for one in told) < 500


def test_a_setting_that_is_missing_is_told_with_what_may_have_been_meant_for_it() -> None:
    found = strays("HALF_SECRET", "HALF_COLOUR")
    assert found.hint("HALF_SECRETS is not set: give one") == (
        "is HALF_SECRET misspelt? no setting reads it, but there is HALF_SECRETS"
    )
    assert found.hint("HALF_SLOTS must be a number") is None
    assert strays("HALF_SECRET_FILE").hint("HALF_SECRETS is not set") is not None
