"""Why a text is no JSON document, in words of ours."""

import re
from typing import Final

_SYNTAX: Final = re.compile(r"^JSON is malformed: (?P<what>.*) \(byte (?P<at>\d+)\)$", re.DOTALL)
_FAULTS: Final = {
    "object keys must be strings": "a key must be a text in double quotes",
    "expected ':'": "a colon is missing behind a key",
    "expected ',' or '}'": "a comma or a closing brace is missing",
    "expected ',' or ']'": "a comma or a closing bracket is missing",
    "trailing comma in object": "a comma stands before a closing brace",
    "trailing comma in array": "a comma stands before a closing bracket",
    "trailing characters": "something follows the document",
    "invalid number": "a number is not written as JSON writes it",
    "invalid escape character in string": "a text has an escape that JSON does not have",
    "invalid character in unicode escape": "a text has a `\\u` without four hexadecimal digits",
}
_SURROGATE: Final = "a text holds half a surrogate pair, which is no character"


def malformed(text: str) -> str:
    """Return why a text is no JSON document, out of what the parser says."""
    found = _SYNTAX.match(text)
    if found is None:
        return (
            "the document is truncated: the body ends within it"
            if "truncated" in text
            else "it is no JSON"
        )
    if "surrogate" in found["what"]:
        return _SURROGATE
    what = _FAULTS.get(found["what"], "there is a character that cannot stand there")
    return f"byte {found['at']}: {what}"
