"""jobs/schema.py: JSON Schemas of inputs, and that no input makes one take long."""

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.jobs.schema import (
    BYTES_MAX,
    PATTERNS_MAX,
    SUBSCHEMAS_MAX,
    VISITS_MAX,
    InputSchema,
    SchemaError,
    SchemaFault,
    check_body,
)

PAGES: dict[str, Any] = {
    "type": "object",
    "properties": {
        "pages": {"type": "integer", "maximum": 100},
        "name": {"type": "string", "pattern": "^[a-z]+$"},
        "parts": {"type": "array", "items": {"type": "object", "required": ["id"]}},
        "mode": {"enum": ["fast", "good"]},
    },
    "required": ["pages"],
    "additionalProperties": False,
}


def check(schema: dict[str, Any], value: Any, root: str = "") -> SchemaFault | None:
    made = InputSchema(schema)
    made.compile()
    return check_body(made, json.dumps(value).encode(), root)


def refused(schema: Any) -> SchemaError:
    with pytest.raises(SchemaError) as caught:
        InputSchema(schema).compile()
    return caught.value


# --- what an input comes to ---


@pytest.mark.parametrize(
    ("value", "field", "shown", "reason"),
    [
        ({"pages": 500}, "input.pages", 500, "is greater than the maximum of 100"),
        ({}, "input.pages", None, "is required"),
        ({"pages": "x"}, "input.pages", "x", 'is not of type "integer"'),
        ({"pages": 1, "name": "A"}, "input.name", "A", 'does not match "^[a-z]+$"'),
        ({"pages": 1, "parts": [{"id": 1}, {}]}, "input.parts[1].id", None, "is required"),
        ({"pages": 1, "parts": [5]}, "input.parts[0]", 5, 'is not of type "object"'),
        ({"pages": 1, "mode": "x"}, "input.mode", "x", 'is not one of "fast" or "good"'),
        ({"pages": 1, "more": 1}, "input", None, "Additional properties are not allowed"),
        ([], "input", None, 'is not of type "object"'),
    ],
)
def test_a_fault_names_the_field_the_value_and_the_reason(
    value: Any, field: str, shown: Any, reason: str
) -> None:
    """422 with the seed's details (T39): details{field, value, reason}, the field path dotted as
    `input.pages`, the offending value echoed."""
    fault = check(PAGES, value, "input")
    assert fault is not None
    assert (fault.field, fault.value) == (field, shown)
    assert fault.reason.startswith(reason)


def test_an_input_that_fits_has_no_fault() -> None:
    assert check(PAGES, {"pages": 5, "name": "abc", "parts": [{"id": 1}], "mode": "fast"}) is None
    assert check({}, [1, {"a": None}]) is None


def test_without_a_root_the_path_is_the_inputs_own() -> None:
    assert check(PAGES, {"pages": 500}) == SchemaFault(
        "pages", 500, "is greater than the maximum of 100"
    )


@pytest.mark.parametrize("body", [b"", b"{", b'{"pages":1,"pages":2}', b"[NaN]", b"\xff"])
def test_what_readers_may_read_differently_is_no_input(body: bytes) -> None:
    fault = check_body(InputSchema(PAGES), body)
    assert fault is not None
    assert fault.field == "body"


def test_long_values_are_not_echoed() -> None:
    fault = check({"maxLength": 3}, "x" * 1_000)
    assert fault is not None
    assert fault.value is None
    assert len(fault.reason) <= 200


# --- what may be a schema ---


@pytest.mark.parametrize(
    ("schema", "path"),
    [
        ([], ""),
        ({"type": "objekt"}, "type"),
        ({"properties": []}, "properties"),
        ({"items": 5}, "items"),
        ({"anyOf": {}}, "anyOf"),
        ({"allOf": [{}, 7]}, "allOf[1]"),
        ({"minimum": "3"}, "minimum"),
        ({"multipleOf": 1e-300}, "multipleOf"),
        ({"multipleOf": 0}, "multipleOf"),
        ({"pattern": "("}, "pattern"),
        ({"pattern": 7}, "pattern"),
        ({"maximum": float("nan")}, ""),
        ({"$schema": "http://json-schema.org/draft-07/schema#"}, "$schema"),
        ({"properties": {"a": {"$ref": "#/$defs/b"}}}, "properties.a.$ref"),
        ({"$dynamicRef": "#a"}, "$dynamicRef"),
        ({"properties": {"a": {"$anchor": "a"}}}, "properties.a.$anchor"),
        ({"$defs": {"a": {"$id": "http://x/"}}}, "$defs.a.$id"),
    ],
)
def test_what_is_no_schema_is_refused_with_its_path(schema: Any, path: str) -> None:
    """Checked at apply."""
    assert refused(schema).path == path


@pytest.mark.parametrize(
    "ref",
    ["http://127.0.0.1:9/x", "https://x/y#/z", "file:///etc/passwd", "other.json", "#", "#anchor",
     "", 7, "#/%24defs/a", "//x/y"],
)  # fmt: skip
def test_no_reference_leads_out_of_the_schema(ref: Any) -> None:
    """No remote `$ref`."""
    assert "must lead within this schema" in refused({"$ref": ref, "$defs": {"a": {}}}).reason


def test_references_within_are_followed() -> None:
    schema = {
        "$id": "https://example.com/input",
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "properties": {"a": {"$ref": "#/$defs/a~1b"}, "c": {"$ref": "#/properties/a"}},
        "$defs": {"a/b": {"type": "integer"}, "unused": {"$ref": "#/$defs/a~1b"}},
    }
    assert check(schema, {"a": 1, "c": 1}) is None
    fault = check(schema, {"c": "x"})
    assert fault is not None
    assert fault.field == "c"


@pytest.mark.parametrize(
    "schema",
    [
        {"$defs": {"n": {"items": {"$ref": "#/$defs/n"}}}, "$ref": "#/$defs/n"},
        {"properties": {"a": {"properties": {"b": {"$ref": "#/properties/a"}}}}},
        {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"not": {"$ref": "#/$defs/a"}}}},
    ],
)
def test_a_schema_that_leads_back_to_itself_is_refused(schema: Any) -> None:
    """Else it would be applied to one value more often with each level: without bound."""
    assert "leads back to itself" in refused(schema).reason


def test_a_schema_is_bounded_with_its_references_written_out() -> None:
    doubling: dict[str, Any] = {"d0": {"type": "integer"}}
    for n in range(1, 40):
        ref = {"$ref": f"#/$defs/d{n - 1}"}
        doubling[f"d{n}"] = {"anyOf": [ref, ref]}
    assert "too many" in refused({"$defs": doubling, "$ref": "#/$defs/d39"}).reason
    wide = {"properties": {f"p{n}": True for n in range(SUBSCHEMAS_MAX)}}
    assert "too many" in refused(wide).reason


def test_a_schemas_size_and_depth_and_patterns_are_bounded() -> None:
    assert "longer" in refused({"description": "x" * BYTES_MAX}).reason
    deep: dict[str, Any] = {}
    for _ in range(70):
        deep = {"items": deep}
    assert "nested deeper" in refused(deep).reason
    many = {f"p{n}": {"pattern": "a"} for n in range(PATTERNS_MAX + 1)}
    assert "patterns" in refused({"properties": many}).reason
    assert refused({"pattern": "x" * 1_000}).path == "pattern"
    assert refused({"patternProperties": {"x" * 1_000: {}}}).path == "patternProperties"


@pytest.mark.parametrize("pattern", [r"(?=a)b", r"(a)\1", r"(?<!a)b"])
def test_patterns_that_an_automaton_cannot_match_are_refused(pattern: str) -> None:
    assert refused({"pattern": pattern}).path == "pattern"


# --- hostile inputs ---


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"pattern": "^(a+)+$"}, "a" * 1_000_000 + "!"),
        ({"pattern": "^(([a-z])+.)+[A-Z]([a-z])+$"}, "a" * 1_000_000),
        ({"pattern": "(a|a|ab)*c"}, "ab" * 500_000),
        ({"pattern": "(.*)(.*)(.*)(.*)(.*)[^x]y"}, "x" * 1_000_000),
        ({"pattern": "[ab]*a[ab]{200}c"}, "abbabaaabab" * 90_000),
        ({"patternProperties": {"^(a+)+$": {}}}, {"a" * 100 + f"{n}!": n for n in range(5_000)}),
        ({"uniqueItems": True}, [[n] for n in range(100_000)]),
        ({"uniqueItems": True}, [{"a": n} for n in range(100_000)]),
        ({"items": {"anyOf": [{"type": "string"}, {"type": "null"}]}}, [1] * 400_000),
        ({"anyOf": [{"items": {"type": "string"}}, {"items": {"type": "null"}}]}, [1] * 400_000),
        ({"items": {"type": "number", "multipleOf": 0.01}}, [1e300] * 90_000),
        ({"type": "integer"}, 10**99),
    ],
    ids=range(12),
)
def test_a_hostile_input_is_checked_in_bounded_time(schema: Any, value: Any) -> None:
    """Bounded in time for hostile inputs, regular expressions too. A matcher that goes back would
    take longer than the world has stood."""
    made, body = InputSchema(schema), json.dumps(value).encode()
    made.compile()
    began = time.process_time()
    check_body(made, body)
    assert time.process_time() - began < 3


def test_an_input_that_has_too_many_values_for_its_schema_is_not_taken() -> None:
    many = {"items": {"anyOf": [{"const": n} for n in range(998)]}}
    body = b"[" + b",".join([b"1"] * (VISITS_MAX // 1_000 + 1)) + b"]"
    fault = check_body(InputSchema(many), body, "input")
    assert fault == SchemaFault("input", None, "has more than 10000 values: too many to check")
    assert check_body(InputSchema(many), b"[" + b",".join([b"1"] * 9_000) + b"]") is None


def test_a_fault_in_a_long_input_is_told_without_its_place() -> None:
    """An error holds copies of what it is about."""
    wide = {"anyOf": [{"maxLength": 1} for _ in range(1_000)]}
    fault = check(wide, "x" * 100_000)
    assert fault == SchemaFault("", None, "does not fit its endpoint's schema")


def test_a_kept_schema_that_can_no_longer_be_used_is_a_fault() -> None:
    fault = check_body(InputSchema({"$ref": "http://x/y"}), b"{}", "input")
    assert fault is not None
    assert "cannot be used" in fault.reason


schemas: st.SearchStrategy[Any] = st.recursive(
    st.booleans() | st.just({}),
    lambda inner: st.fixed_dictionaries(
        {},
        optional={
            "type": st.sampled_from(["object", "array", "string", "integer", "null"]),
            "properties": st.dictionaries(st.sampled_from("abc"), inner, max_size=2),
            "items": inner,
            "anyOf": st.lists(inner, min_size=1, max_size=2),
            "not": inner,
            "$ref": st.sampled_from(["#/items", "#/properties/a", "#/anyOf/0", "#/x"]),
            "required": st.lists(st.sampled_from("abc"), unique=True),
            "pattern": st.sampled_from(["a", "^b+$"]),
        },
    ),
    max_leaves=8,
)
values = st.recursive(
    st.none() | st.integers() | st.text("ab", max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(schemas, values)
def test_whatever_is_given_is_refused_or_checked(schema: Any, value: Any) -> None:
    made = InputSchema(schema)
    try:
        made.compile()
    except SchemaError as error:
        assert error.reason  # noqa: PT017
        return
    fault = check_body(made, json.dumps(value).encode(), "input")
    assert fault is None or (fault.field.startswith("input") and fault.reason)
