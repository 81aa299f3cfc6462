"""settings.py: a field's type says how its variable is read."""

import ipaddress
from dataclasses import dataclass
from typing import Literal

import pytest

from receiver.base.settings import Network, SettingError, check_choices, load, setting


@dataclass(frozen=True, kw_only=True)
class Example:
    count: int = setting(1, "how many", min=1, max=9)
    wait: float = setting(0.5, "how long", unit="s", max=10)
    keys: tuple[str, ...] = setting((), "which", secret=True)
    allow: tuple[Network, ...] = setting((), "where to")
    mode: Literal["fast", "safe", "both"] = setting("fast", "how")
    name: str | None = setting(None, "what")

    def __post_init__(self) -> None:
        check_choices(self, "EXAMPLE_")


def test_each_type_is_read_in_its_way() -> None:
    """And what is not set, or empty, has its default."""
    assert load(Example, "EXAMPLE_", {"EXAMPLE_COUNT": " ", "COUNT": "7"}) == Example()
    environ = {
        "EXAMPLE_COUNT": " 7 ",
        "EXAMPLE_WAIT": "1e1",
        "EXAMPLE_KEYS": "a, b\nc,",
        "EXAMPLE_ALLOW": "10.0.0.0/8, ::1/128",
        "EXAMPLE_MODE": "both",
        "EXAMPLE_NAME": "a, b",
    }
    assert load(Example, "EXAMPLE_", environ) == Example(
        count=7,
        wait=10.0,
        keys=("a", "b", "c"),
        allow=(ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("::1/128")),
        mode="both",
        name="a, b",
    )


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("COUNT", "x", "EXAMPLE_COUNT must be a whole number, not 'x'"),
        ("COUNT", "10", "EXAMPLE_COUNT must be from 1 to 9, not 10"),
        ("WAIT", "x", "EXAMPLE_WAIT must be a number, not 'x'"),
        ("WAIT", "nan", "EXAMPLE_WAIT must be from 0 to 10, not nan"),
        ("ALLOW", "10.0.0.1/8", "EXAMPLE_ALLOW takes CIDRs such as 10.0.0.0/8: "),
        ("MODE", "slow", "EXAMPLE_MODE must be fast, safe or both, not 'slow'"),
    ],
)
def test_a_fault_names_the_variable_and_what_it_takes(name: str, text: str, message: str) -> None:
    """In one line."""
    with pytest.raises(SettingError) as caught:
        load(Example, "EXAMPLE_", {f"EXAMPLE_{name}": text})
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_secrets_are_in_no_repr() -> None:
    """I8."""
    assert "hidden" not in repr(load(Example, "EXAMPLE_", {"EXAMPLE_KEYS": "hidden"}))
