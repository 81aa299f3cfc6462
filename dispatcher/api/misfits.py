"""Why a document is none that is taken, in words of ours: what parsers say of it does not get out.
A word that is not known comes with those that are, and the nearest of them."""

import re
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, Final

import msgspec
from msgspec import inspect

from dispatcher.jobs.rules import ENDPOINT_NAME
from dispatcher.malformed import malformed
from dispatcher.wire import NAME
from receiver.base.http import Refusal, invalid
from receiver.base.words import nearest, one_of

_WHERE: Final = re.compile(r"(?P<key>`key` in )?`\$(?P<path>[\w.\[\]]*)`")
_FIELD: Final = re.compile(
    r"^Object (?P<what>missing required|contains unknown) field `(?P<name>.*)`$", re.DOTALL
)
_KIND: Final = re.compile(r"^Expected `(?P<expected>[a-z |]+)`, got `(?P<got>[a-z]+)`$")
_LENGTH: Final = re.compile(r"^Expected `(?P<kind>[a-z]+)` of length (?P<sign><=|>=) (?P<n>\d+)$")
_BOUND: Final = re.compile(
    r"^Expected `(?:int|float)` (?P<sign><=|>=|<|>) (?P<n>[-+.\dinfe]+)$"
)  # fmt: skip
_PATTERN: Final = re.compile(r"^Expected `str` matching regex '(?P<pattern>.*)'$", re.DOTALL)
_STEP: Final = re.compile(r"\[(?:\.\.\.|\d+)\]|[^.\[\]]+")
_KINDS: Final = {
    "str": "a text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "null": "null",
    "array": "a list",
    "object": "an object",
}
_GOT: Final = _KINDS | {"int": "a number", "float": "a number with a fraction"}
_UNITS: Final = {"str": "character", "array": "item", "object": "entry"}
_SIGNS: Final = {">=": "at least", "<=": "at most", ">": "more than", "<": "less than"}
_FORMS: Final = {
    NAME: "1 to 64 letters, digits, `.`, `_` and `-`, of which the first is a letter or a digit",
    f"^{ENDPOINT_NAME}$": "1 to 64 letters, digits, `_` and `-`, of which the first is none of "
    "these signs",
    r"^[\x21-\x7e]{1,255}$": "1 to 255 visible ASCII characters",
}


def misfit(text: str, shape: Any, value: Any) -> Refusal:
    """Return the refusal of a document that has not this shape, as field, value and reason. `text`
    is what msgspec says, `value` the document."""
    reason, _, at = text.rpartition(" - at ")
    where = _WHERE.fullmatch(at)
    if where is None:
        reason = text
    path = "" if where is None else where["path"].lstrip(".")
    of_key = where is not None and where["key"] is not None
    types = list(_at(shape, _STEP.findall(path)))
    shown = path.replace("[...]", "")
    field = _FIELD.match(reason)
    if field is not None:
        name = f"{shown}.{field['name']}".lstrip(".")
        if field["what"] == "missing required":
            return invalid(name, None, "required")
        return invalid(name, None, f"unknown field{nearest(field['name'], _fields(types))}")
    plain = None if of_key else _value_at(value, path)
    told = _reason(reason, types, plain)
    return invalid(shown or "body", plain, f"a key {told}" if of_key else told)


def _reason(text: str, types: Sequence[inspect.Type], value: object) -> str:
    if text.startswith("Invalid enum value"):
        words = [str(word) for one in types for word in _words(one)]
        told = one_of(words)
        objects = any(isinstance(one, inspect.StructType) for one in types)
        lists = any(isinstance(one, inspect.ListType) for one in types)
        more = (", or an object" if objects else "") + (", or a list" if lists else "")
        return f"{told}{more}{nearest(value, words) if isinstance(value, str) else ''}"
    if kind := _KIND.match(text):
        expected = [_KINDS[one] for one in kind["expected"].split(" | ") if one in _KINDS]
        got = kind["got"]
        # A number is what a whole number is not, where only such ones are taken.
        return f"must be {_either(expected)}, not {_GOT.get(got, 'that')}"
    if length := _LENGTH.match(text):
        unit, n = _UNITS.get(length["kind"], "item"), int(length["n"])
        return f"must have {_SIGNS[length['sign']]} {n:,} {_many(unit, n)}"
    if bound := _BOUND.match(text):
        return f"must be {_SIGNS[bound['sign']]} {float(bound['n']):.15g}"
    if pattern := _PATTERN.match(text):
        form = _FORMS.get(pattern["pattern"].replace("\\\\", "\\"))
        return f"must be {form}" if form else "has a form that it may not have"
    if text == "Number out of range":
        return "is a number that is too large"
    return "cannot be read"


def _either(words: Sequence[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} or {last}" if first else last


def _many(unit: str, n: int) -> str:
    if n == 1:
        return unit
    return "entries" if unit == "entry" else f"{unit}s"


@cache
def _type_of(shape: Any) -> inspect.Type:
    return inspect.type_info(shape)


def _at(shape: Any, steps: Sequence[str]) -> Iterator[inspect.Type]:
    """Yield the types that may stand at a path of a shape."""
    types = list(_plain(_type_of(shape)))
    for step in steps:
        types = [plain for one in types for inner in _inside(one, step) for plain in _plain(inner)]
    yield from types


def _plain(one: inspect.Type) -> Iterator[inspect.Type]:
    """Yield a type without what is noted beside it; of a union each."""
    if isinstance(one, inspect.Metadata):
        yield from _plain(one.type)
    elif isinstance(one, inspect.UnionType):
        for option in one.types:
            yield from _plain(option)
    else:
        yield one


def _inside(one: inspect.Type, step: str) -> Iterator[inspect.Type]:
    if isinstance(one, inspect.StructType):
        yield from (field.type for field in one.fields if field.encode_name == step)
    elif isinstance(one, inspect.DictType):
        yield one.value_type
    elif isinstance(one, inspect.ListType):
        yield one.item_type


def _fields(types: Sequence[inspect.Type]) -> list[str]:
    structs = [one for one in types if isinstance(one, inspect.StructType)]
    return [field.encode_name for one in structs for field in one.fields]


def _words(one: inspect.Type) -> tuple[Any, ...]:
    return one.values if isinstance(one, inspect.LiteralType) else ()


def _value_at(value: Any, path: str) -> object:
    """Return what stands at `path`; nothing where it is not a plain value."""
    for step in re.findall(r"[^.\[\]]+", path):
        if isinstance(value, list) and step.isdecimal() and int(step) < len(value):
            value = value[int(step)]
        elif isinstance(value, dict) and step in value:
            value = value[step]
        else:
            return None
    return value if isinstance(value, str | int | float | bool) else None


def text_of(error: msgspec.DecodeError | UnicodeDecodeError) -> str:
    """Return why bytes are no JSON document."""
    if isinstance(error, UnicodeDecodeError):
        return f"the body is not UTF-8: byte {error.start}"
    return malformed(str(error))
