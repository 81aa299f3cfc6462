"""words.py: the word that somebody meant."""

import pytest

from receiver.base.words import nearest, one_of


@pytest.mark.parametrize(
    ("given", "known", "hint"),
    [
        ("jobid", ["jobId", "payload"], "; did you mean jobId?"),
        ("JOBID", ["jobId", "payload"], "; did you mean jobId?"),
        ("stauts", ["status", "state"], "; did you mean status?"),
        ("zzz", ["status", "state"], ""),
        ("status", [], ""),
        (5, ["status"], ""),
    ],
)
def test_the_nearest_word_is_asked_for_and_no_far_one(
    given: object, known: list[str], hint: str
) -> None:
    assert nearest(given, known) == hint


def test_a_long_word_costs_no_more_than_a_short_one() -> None:
    """What is compared is bounded, whatever somebody sends."""
    assert nearest("x" * 10_000_000, ["status"]) == ""


def test_one_word_and_several() -> None:
    assert one_of(["a", "b"]) == "must be one of a, b"
    assert one_of(["a"]) == "must be a"
