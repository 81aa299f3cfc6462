"""The word that somebody probably meant."""

from collections.abc import Collection
from difflib import get_close_matches
from typing import Final

_CHARS_MAX: Final = 100


def nearest(given: object, known: Collection[str]) -> str:
    """Return a question for the nearest of some words, or nothing where none is near. Capitals do
    not count."""
    by_lower = {word.lower(): word for word in reversed([*known])}
    close = get_close_matches(str(given)[:_CHARS_MAX].lower(), by_lower, n=1)
    return f"; did you mean {by_lower[close[0]]}?" if close else ""


def one_of(words: Collection[str]) -> str:
    """Return what a value must be that is one of these words."""
    return f"must be one of {', '.join(words)}" if len(words) > 1 else f"must be {''.join(words)}"
