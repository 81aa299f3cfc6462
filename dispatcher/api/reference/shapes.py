"""The schemas of everything that crosses the wire, made from the very types that validate, with
what those do not say: a text for each field, formats, the words that an answer may hold."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Struct

from dispatcher.api.destinations import Health
from dispatcher.api.errors import CODES
from dispatcher.api.reference import examples, texts
from dispatcher.api.route import Operation
from dispatcher.audit import ACTIONS
from dispatcher.health import HeldReason
from dispatcher.jobs.endpoint import HeldReason as EndpointHeld
from dispatcher.jobs.values import CallKind
from dispatcher.outcome import AttemptOutcome, Cause
from dispatcher.states import STATES
from dispatcher.values import Replay
from dispatcher.wire import ErrorView, Time

REF: Final = "#/components/schemas/{name}"
_TYPE_ARGUMENTS: Final = re.compile(rb'(View)(?:_[\w.]+|\[[^"]*\])')
_UNITS: Final = ("Seconds, or as", "Bytes, or as")  # what a type says whatever field it is of
_URLS: Final = frozenset({"callbackUrl", "lastUrl"})


def _words(of: Any) -> list[str]:
    """Return the words of a Literal, or of several, in their order."""
    return [word for one in get_args(of) for word in (_words(one) or [one])]


# What an answer may hold. Its type is a text, since a client must live with words that come later.
_HELD: Final = ["paused", *_words(HeldReason), "rate"]
_STATES: Final = _words(get_type_hints(Replay)["state"])
_ENUMS: Final[dict[tuple[str, str], list[str]]] = {
    ("AttemptView", "cause"): _words(Cause),
    ("AttemptView", "outcome"): _words(AttemptOutcome),
    ("AuditView", "action"): list(ACTIONS),
    ("DestinationView", "health"): _words(Health),
    ("DestinationView", "heldReason"): _HELD,
    ("EndpointTestView", "outcome"): _words(CallKind),
    ("EndpointView", "heldReason"): _words(EndpointHeld),
    ("EndpointView", "state"): ["active", "paused", "held"],
    ("ErrorView", "error"): list(CODES),
    ("FailureView", "cause"): _words(Cause),
    ("LineErrorView", "error"): list(CODES),
    ("JobAttemptView", "outcome"): _words(CallKind),
    ("JobCallbackView", "status"): list(STATES),
    ("JobDetailView", "heldReason"): _words(EndpointHeld),
    ("ReencryptionView", "state"): ["none", "running", "done"],
    ("ReplayView", "state"): _STATES,
    ("StatusView", "status"): ["ok", "ready", "unready"],
    ("SweepView", "state"): ["running", "completed", "cancelled"],
}


class Schemas:
    """The schema of every type that the operations name, by reference."""

    def __init__(self, operations: Iterable[Operation]) -> None:
        types: list[Any] = [ErrorView]
        for operation in operations:
            types.append(operation.body)
            for carried in operation.responses.values():
                types += carried if isinstance(carried, tuple) else [carried]
            types += [parameter.type for parameter in operation.parameters]
        named = [one for one in types if one is not None and not isinstance(one, str)]
        unique = list({repr(one): one for one in named}.values())
        generated = msgspec.json.schema_components(unique, ref_template=REF)
        # A view is known by its name alone, not by what its times and policies are made of.
        text = _TYPE_ARGUMENTS.sub(rb"\1", msgspec.json.encode(generated))
        references, self.components = msgspec.json.decode(text)
        pairs = zip(unique, references, strict=True)
        self._references = {repr(one): reference for one, reference in pairs}
        for struct in _structs(unique):
            if struct.__name__ in self.components:
                _describe(struct, self.components[struct.__name__])

    def of(self, one: Any) -> dict[str, Any]:
        """Return the schema of a type, by reference where it has a name; of several, of each."""
        if isinstance(one, tuple):
            return {"anyOf": [self.of(option) for option in one]}
        reference: dict[str, Any] = self._references[repr(one)]
        return reference

    def example(self, schema: Mapping[str, Any]) -> Any:
        """Return a document that a schema allows."""
        return examples.whole(schema, self.components)


def _structs(types: Iterable[Any]) -> list[type[Struct]]:
    """Return every struct that these types are made of; no two may bear one name, or one of them
    would be documented as the other."""
    found: dict[str, type[Struct]] = {}
    seen: set[str] = set()
    left = list(types)
    while left:
        one = left.pop()
        if repr(one) in seen:
            continue
        seen.add(repr(one))
        origin = get_origin(one) or one
        if isinstance(origin, type) and issubclass(origin, Struct):
            if found.setdefault(origin.__name__, origin) is not origin:
                raise TypeError(f"two schemas are called {origin.__name__}")
            left += get_type_hints(origin, include_extras=True).values()
        left += [arg for arg in get_args(one) if not isinstance(arg, str | int)]
    return list(found.values())


def _describe(struct: type[Struct], schema: dict[str, Any]) -> None:
    hints = get_type_hints(struct, include_extras=True)
    wire_names = zip(struct.__struct_fields__, struct.__struct_encode_fields__, strict=True)
    for name, wire_name in wire_names:
        field = schema["properties"][wire_name]
        about = texts.of(_names(struct), wire_name)
        if "description" not in field:
            field = schema["properties"][wire_name] = _told(field, about)
        elif about is not None and field["description"].startswith(_UNITS):
            field["description"] = f"{about} {field['description']}"
        _refine(struct, wire_name, field, is_time=_is_time(hints[name]))


def _told(field: dict[str, Any], about: str | None) -> dict[str, Any]:
    """Return a field with a text: what it is, and what is said of what it may hold."""
    options = field.get("anyOf", ())
    held = next((one.pop("description") for one in options if "description" in one), None)
    text = " ".join(part for part in (about, held) if part)
    return {"description": text, **field} if text else field


def _is_time(hint: Any) -> bool:
    return hint is Time or any(arg is Time for arg in get_args(hint))


def _refine(struct: type[Struct], name: str, field: dict[str, Any], *, is_time: bool) -> None:
    """Add what the types leave open, to the field or to that of its options which is a text."""
    text = next((one for one in _options(field) if one.get("type") == "string"), None)
    if text is not None:
        if is_time:
            text["format"] = "date-time"
        elif name in _URLS:
            text["format"] = "uri"
        elif name == "day":
            text["format"] = "date"
        enum = next((_ENUMS[one, name] for one in _names(struct) if (one, name) in _ENUMS), None)
        if enum is not None:
            text["enum"] = enum
    example = next(
        (found for one in _names(struct) if (found := examples.of_field(one, name)) is not None),
        None,
    )
    if example is not None and _fits(example, field):
        field.setdefault("examples", [example])


def _names(struct: type[Struct]) -> list[str]:
    """Return its name, and those of what it is made from, the nearest first."""
    return [one.__name__ for one in struct.__mro__ if issubclass(one, Struct)]


def _options(field: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield field
    for option in field.get("anyOf", ()):
        yield from _options(option)


def _fits(example: Any, field: dict[str, Any]) -> bool:
    """Whether an example is of a type that a field may have, and one of its words."""
    kinds = {"string": str, "integer": int, "number": int | float, "object": dict, "array": list}
    for option in _options(field):
        kind = kinds.get(option.get("type", ""))
        if kind is not None and isinstance(example, kind) and not isinstance(example, bool):
            return "enum" not in option or example in option["enum"]
    return not field.keys() - {"description"}  # anything at all
