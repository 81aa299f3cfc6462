"""JSON Schemas of inputs (2020-12): checked when they are written, and bounded, so that no input
makes one take long. Pure.

A schema is linear in its input's size: patterns are matched by automata, which never go back;
references lead only downwards within the schema, so that no part of it is applied to a value more
often than it was written; and an input that has too many values for its schema's size is not taken.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from receiver.base.completion import DEPTH_MAX, ParseError, parse

BYTES_MAX: Final = 128 * 1024
"""Of a schema, written out."""
SUBSCHEMAS_MAX: Final = 2_000
"""Of a schema with a copy of what it refers to in place of each reference; some count more."""
PATTERNS_MAX: Final = 100
PATTERN_CHARS_MAX: Final = 512
VISITS_MAX: Final = 10_000_000
"""How many values an input may have, times the subschemas: half a second's work."""
_AUTOMATON_BYTES_MAX: Final = 256 * 1024  # of one pattern
_COPIED_BYTES_MAX: Final = 64 * 1024 * 1024
_ERRORS_MAX: Final = 40_000
_MULTIPLE_VISITS: Final = 100  # what a division costs: it is exact
_SHOWN_CHARS: Final = 200
_DRAFT: Final = "https://json-schema.org/draft/2020-12/schema"
_MASK: Final = "value"
# What would let a schema call itself, or be what it does not show.
_REFUSED: Final = (
    "$dynamicRef", "$dynamicAnchor", "$recursiveRef", "$recursiveAnchor", "$anchor", "$id",
    "$vocabulary",
)  # fmt: skip
# Keywords whose value is one schema, a list of them, or has one under each name.
_ONE: Final = frozenset({
    "additionalProperties", "contains", "contentSchema", "else", "if", "items", "not",
    "propertyNames", "then", "unevaluatedItems", "unevaluatedProperties",
})  # fmt: skip
_LISTS: Final = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
_NAMED: Final = frozenset({"dependentSchemas", "patternProperties", "properties"})
_DEFINITIONS: Final = frozenset({"$defs", "definitions"})


class SchemaError(ValueError):
    """What cannot be a schema; `path` leads to it. Its text is fit to show."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}" if path else reason)
        self.path = path
        self.reason = reason


@dataclass(frozen=True, slots=True)
class SchemaFault:
    """Why an input does not fit: where (a dotted path), what stands there if it is short, and why
    it must not."""

    field: str
    value: bool | int | float | str | None
    reason: str


class InputSchema:
    """A schema; measured, and made a validator, when it is first used."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self.document = document

    def __eq__(self, other: object) -> bool:
        return isinstance(other, InputSchema) and other.document == self.document

    __hash__ = None  # type: ignore[assignment]

    def compile(self) -> None:
        """Make it ready for use. Raises SchemaError for what is no 2020-12, or not bounded."""
        _ = self._subschemas, self._validator

    @cached_property
    def _subschemas(self) -> int:
        return _Measured(self.document).count()

    @cached_property
    def _validator(self) -> Any:
        # Imported where the first endpoint has a schema: most have none, and it takes some 100 ms.
        import jsonschema_rs as library

        try:
            return library.Draft202012Validator(
                dict(self.document),
                offline=True,
                mask=_MASK,
                validate_formats=False,
                pattern_options=library.RegexOptions(
                    size_limit=_AUTOMATON_BYTES_MAX, dfa_size_limit=4 * _AUTOMATON_BYTES_MAX
                ),
            )
        except library.ValidationError as error:
            path = _dotted("", error.instance_path)
            raise SchemaError(path, error.message.replace(_MASK, "it", 1)) from None
        except library.ReferencingError as error:
            raise SchemaError("", str(error)) from None

    def check(self, value: Any, *, size: int, root: str = "") -> SchemaFault | None:
        """Return why a value does not fit, None where it does. `size` is how many bytes it was
        written in, and `root` the path of the value itself."""
        try:
            self.compile()
        except SchemaError as error:
            return SchemaFault(root, None, f"its endpoint's schema cannot be used: {error}")
        values_max = VISITS_MAX // self._subschemas
        if size > 2 * values_max and _exceeds(value, values_max):
            return SchemaFault(root, None, f"has more than {values_max} values: too many to check")
        if self._validator.is_valid(value):
            return None
        if self._is_long(value, size):
            return SchemaFault(root, None, "does not fit its endpoint's schema")
        try:
            self._validator.validate(value)
        except ValueError as error:
            return _fault(error, root)
        return None

    def _is_long(self, value: Any, size: int) -> bool:
        """Whether to tell why it does not fit would take long: of alternatives all the errors are
        made, with copies of what they are about."""
        if size * self._subschemas > _COPIED_BYTES_MAX:
            return True
        return _exceeds(value, _ERRORS_MAX // self._subschemas)


def check_body(schema: InputSchema, body: bytes, root: str = "") -> SchemaFault | None:
    """Return why a body is not the JSON that a schema describes, None where it is. What parsers may
    read differently is none: its upstream might see what was not checked."""
    try:
        value = parse(body)
    except ParseError as error:
        return SchemaFault(root or "body", None, f"{error}; its endpoint has a schema")
    return schema.check(value, size=len(body), root=root)


def _exceeds(value: Any, values_max: int) -> bool:
    """Whether there are more values in one than so many. Each takes two bytes at least."""
    count, todo = 0, [value]
    while todo and count <= values_max:
        one = todo.pop()
        count += 1
        if isinstance(one, dict):
            todo.extend(one.values())
        elif isinstance(one, list):
            todo.extend(one)
    return count > values_max


def _fault(error: Any, root: str) -> SchemaFault:
    path, kind = list(error.instance_path), error.kind.name
    reason, value = error.message, None
    if kind == "required":
        path.append(error.kind.property.strip('"'))
        reason = "is required"
    else:
        at = error.instance
        if isinstance(at, bool | int | float | str) and len(str(at)) <= _SHOWN_CHARS:
            value = at
        reason = reason.removeprefix(f"{_MASK} ")
    return SchemaFault(_dotted(root, path), value, reason[:_SHOWN_CHARS])


def _dotted(root: str, path: list[str | int]) -> str:
    text = root
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{part}" if text else part
    return text


def _divisor_visits(value: Any, at: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 1e-9 <= value <= 1e15:
        raise SchemaError(at, "must be a number from 1e-9 to 1e15")
    return _MULTIPLE_VISITS


class _Measured:
    """Walks a schema, and counts what would be there if every reference were written out."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        if not isinstance(document, Mapping):
            raise SchemaError("", "must be an object")
        try:
            text = json.dumps(document, allow_nan=False)
        except (TypeError, ValueError, RecursionError):
            raise SchemaError("", "must be JSON") from None
        if len(text) > BYTES_MAX:
            raise SchemaError("", f"is longer than {BYTES_MAX} bytes")
        if document.get("$schema", _DRAFT).rstrip("#") != _DRAFT:
            raise SchemaError("$schema", f"must be {_DRAFT}")
        self._document = document
        self._counts: dict[str, int] = {}
        self._open: set[str] = set()
        self._patterns = 0

    def count(self) -> int:
        """Return how many subschemas there are. Raises SchemaError."""
        total = self._of(self._document, "", 0)
        if total > SUBSCHEMAS_MAX:
            raise SchemaError("", f"has {total} subschemas, references written out: too many")
        return total

    def _of(self, schema: Any, path: str, depth: int) -> int:
        if isinstance(schema, bool):
            return 1
        if not isinstance(schema, Mapping):
            raise SchemaError(path, "must be a schema: an object, true or false")
        if depth > DEPTH_MAX:
            raise SchemaError(path, f"is nested deeper than {DEPTH_MAX} levels")
        total = 1
        for keyword, value in schema.items():
            at = f"{path}.{keyword}" if path else keyword
            if keyword in _REFUSED and not (keyword == "$id" and not path):
                raise SchemaError(at, "is not taken: refer by `$ref` to `#/$defs/NAME`")
            if keyword == "$ref":
                total += self._referred(value, at, depth)
            elif keyword == "pattern":
                self._note_pattern(value, at)
            elif keyword == "multipleOf":
                total += _divisor_visits(value, at)
            elif keyword in _DEFINITIONS:
                for name, one in self._named(value, at):
                    self._of(one, f"{at}.{name}", depth + 1)
            else:
                for name, one in self._parts(keyword, value, at):
                    total += self._of(one, name, depth + 1)
        return total

    def _parts(self, keyword: str, value: Any, at: str) -> list[tuple[str, Any]]:
        if keyword in _ONE:
            return [(at, value)]
        if keyword in _LISTS:
            if not isinstance(value, list):
                raise SchemaError(at, "must be a list of schemas")
            return [(f"{at}[{n}]", one) for n, one in enumerate(value)]
        if keyword not in _NAMED:
            return []
        parts = self._named(value, at)
        if keyword == "patternProperties":
            for pattern, _ in parts:
                self._note_pattern(pattern, at)
        return [(f"{at}.{name}", one) for name, one in parts]

    def _named(self, value: Any, at: str) -> list[tuple[str, Any]]:
        if not isinstance(value, Mapping):
            raise SchemaError(at, "must be an object of schemas")
        return list(value.items())

    def _note_pattern(self, pattern: Any, at: str) -> None:
        self._patterns += 1
        if not isinstance(pattern, str) or len(pattern) > PATTERN_CHARS_MAX:
            raise SchemaError(at, f"must be a pattern of at most {PATTERN_CHARS_MAX} characters")
        if self._patterns > PATTERNS_MAX:
            raise SchemaError(at, f"is one of more than {PATTERNS_MAX} patterns")

    def _referred(self, ref: Any, at: str, depth: int) -> int:
        if not isinstance(ref, str) or not ref.startswith("#/") or "%" in ref:
            raise SchemaError(at, "must lead within this schema: `#/$defs/NAME`")
        if ref in self._open:
            raise SchemaError(at, "leads back to itself: such a schema has no bound")
        if ref not in self._counts:
            self._open.add(ref)
            self._counts[ref] = self._of(self._at(ref, at), ref, depth + 1)
            self._open.discard(ref)
        return self._counts[ref]

    def _at(self, ref: str, at: str) -> Any:
        """Return the schema that a reference leads to."""
        found: Any = self._document
        for part in ref.removeprefix("#/").split("/"):
            name = part.replace("~1", "/").replace("~0", "~")
            if isinstance(found, Mapping) and name in found:
                found = found[name]
            elif isinstance(found, list) and name.isdecimal() and int(name) < len(found):
                found = found[int(name)]
            else:
                raise SchemaError(at, f"leads nowhere: {ref}"[:_SHOWN_CHARS])
        return found
