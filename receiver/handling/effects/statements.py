"""Which SQL begins or ends a transaction. Pure."""

import re
from typing import Final

# What is no statement's own words: comments, texts, quoted names, dollar-quoted texts.
_ASIDE: Final = re.compile(
    r"--[^\n]*|/\*.*?\*/"
    r"|\b[eE]'(?:[^'\\]|\\.|'')*'|'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\""
    r"|(?P<dollar>\$(?:[^\W\d]\w*)?\$).*?(?P=dollar)",
    re.DOTALL,
)
_WORDS: Final = re.compile(r"\s*([a-z]+)(?:\s+([a-z]+))?(?:\s+([a-z]+))?", re.IGNORECASE)
_ENDING: Final = frozenset({"BEGIN", "COMMIT", "END", "ROLLBACK", "ABORT"})
_WITH_TRANSACTION: Final = frozenset({"START", "PREPARE"})


def transaction_control(sql: str) -> str | None:
    """Return the first statement in `sql` that would begin or end a transaction, by name; None
    where there is none. SAVEPOINT, RELEASE and ROLLBACK TO stay within one.

    It knows PostgreSQL's quoting but is no parser: what slips through (a comment in a comment) is
    found before the commit, when the transaction is another one.
    """
    for statement in _ASIDE.sub(_blank, sql).split(";"):
        found = _WORDS.match(statement)
        if found is None:
            continue
        first, *rest = [word.upper() for word in found.groups() if word]
        if first in _WITH_TRANSACTION and rest[:1] == ["TRANSACTION"]:
            return f"{first} TRANSACTION"
        if first in _ENDING and not (first == "ROLLBACK" and "TO" in rest):
            return first
    return None


def _blank(aside: re.Match[str]) -> str:
    """Return a comment separates words; all else stands for a value or a name."""
    return " " if aside[0].startswith(("--", "/*")) else "?"
