"""Options that both command lines share: lengths of time, forms of output, and who wins."""

from typing import Annotated, Any

import pytest
import typer
from freezegun import freeze_time

from receiver.base.options import (
    Depends,
    Printing,
    ahead,
    duration_s,
    moment,
    printing,
    with_dependencies,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90", 90), ("1.5", 1.5), ("30s", 30), ("15m", 900), ("2h", 7_200), ("1d", 86_400),
        ("2w", 1_209_600), ("500ms", 0.5), (" 5m ", 300), (60.0, 60.0),
    ],
)  # fmt: skip
def test_a_length_of_time_is_seconds(text: str | float, expected: float) -> None:
    assert duration_s(text) == expected


@pytest.mark.parametrize("text", ["", "m", "-5m", "5 m", "5y", "1e3", "nan", "999999999999s"])
def test_what_is_no_length_of_time_is_told(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="write 90, 30s, 15m, 2h or 1d"):
        duration_s(text)


@freeze_time("2026-03-01T12:00:00Z")
def test_a_moment_lies_behind_and_an_end_ahead() -> None:
    assert moment("2h") == "2026-03-01T10:00:00.000Z"
    assert moment("2026-01-31T12:00:00Z") == "2026-01-31T12:00:00.000Z"
    assert ahead("2h") == 7_200
    for wrong in ("yesterday", "", "999999w9"):
        with pytest.raises(typer.BadParameter, match="is not a time"):
            moment(wrong)


def test_a_moment_before_all_time_is_none() -> None:
    """A span that no clock can go back is told as what is no time, too."""
    with pytest.raises(typer.BadParameter, match="is not a time"):
        moment("9999999999w")


def test_the_form_that_is_given_last_counts() -> None:
    before = Printing(json=True)
    assert printing(False, None, before) == before
    assert printing(False, "table", before) == Printing()
    assert printing(True, None).json
    assert printing(False, "json").array
    assert not printing(False, "ndjson").array


def _maker(output: Annotated[str, typer.Option("--output")] = "table", other: int = 1) -> str:
    return f"{output} {other}"


def test_an_option_of_the_commands_own_wins() -> None:
    """Of one name there is one: what `--output FILE` of a command means is its own affair."""
    seen: list[Any] = []

    def run(
        made: Annotated[str, Depends(_maker)],
        target: Annotated[str, typer.Option("--output")] = "",
    ) -> None:
        seen.append((made, target))

    with_dependencies(run)(target="x", other=2)
    assert seen == [("table 2", "x")]
