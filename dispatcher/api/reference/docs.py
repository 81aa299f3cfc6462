"""The OpenAPI document as one page of HTML: no script, no font, nothing fetched from elsewhere."""

import json
import re
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any, Final

_CSS: Final = Path(__file__).with_name("docs.css").read_text("utf-8")
_EXAMPLE_HOST: Final = "$DISPATCHER_URL"
_CODE: Final = re.compile(r"`([^`]+)`")


def page(document: Mapping[str, Any]) -> str:
    """Return the whole page."""
    info = document["info"]
    sections = {
        tag["name"]: (tag["description"], _of_tag(document, tag["name"]))
        for tag in document["tags"]
    }
    links = "".join(_links(name, operations) for name, (_, operations) in sections.items())
    body = "".join(
        f'<section id="{name}"><h2>{name}</h2><p>{_text(about)}</p>'
        + "".join(_operation(method, path, one, document) for method, path, one in operations)
        + "</section>"
        for name, (about, operations) in sections.items()
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(info['title'])}</title><style>\n{_CSS}</style></head><body>"
        f'<nav><a class="home" href="#top">Postback <small>{escape(info["version"])}</small></a>'
        f'{links}<p class="group"><a href="#schemas">schemas</a></p>'
        '<p class="group"><a href="/openapi.json">openapi.json</a></p></nav>'
        f'<main id="top"><h1>{escape(info["title"])}</h1>{_paragraphs(info["description"])}'
        f"{body}{_schemas(document)}</main></body></html>"
    )


Operations = list[tuple[str, str, Mapping[str, Any]]]


def _of_tag(document: Mapping[str, Any], tag: str) -> Operations:
    return [
        (method.upper(), path, operation)
        for path, methods in (*document["paths"].items(), *document["webhooks"].items())
        for method, operation in methods.items()
        if tag in operation["tags"]
    ]


def _links(name: str, operations: Operations) -> str:
    items = "".join(
        f'<li><a href="#{one["operationId"]}"><b class="{method.lower()}">{method}</b> '
        f"{escape(path.removeprefix('/v1'))}</a></li>"
        for method, path, one in operations
    )
    return f'<p class="group"><a href="#{name}">{name}</a></p><ul>{items}</ul>'


def _operation(method: str, path: str, one: Mapping[str, Any], document: Mapping[str, Any]) -> str:
    return (
        f'<details id="{one["operationId"]}"><summary><b class="{method.lower()}">{method}</b>'
        f"<code>{escape(path)}</code><span>{_text(one['summary'])}</span></summary><div>"
        f"{_paragraphs(one['description'])}{_parameters(one)}{_request(one)}"
        f"{_responses(one, document)}<h4>Example</h4><pre>{escape(_curl(method, path, one))}</pre>"
        "</div></details>"
    )


def _parameters(one: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr><td><code>{escape(parameter['name'])}</code>"
        f"{' <em>required</em>' if parameter.get('required') else ''}</td>"
        f"<td>{parameter['in']}</td><td>{_kind(parameter['schema'])}</td>"
        f"<td>{_text(parameter.get('description', ''))}</td></tr>"
        for parameter in one["parameters"]
    )
    head = "<tr><th>name</th><th>in</th><th>type</th><th></th></tr>"
    return f"<h4>Parameters</h4><table>{head}{rows}</table>" if rows else ""


def _request(one: Mapping[str, Any]) -> str:
    if "requestBody" not in one:
        return ""
    content = one["requestBody"]["content"]
    kinds = " or ".join(f"<code>{escape(kind)}</code>" for kind in content)
    schema = next(iter(content.values())).get("schema")
    return f"<h4>Body</h4><p>{kinds}{': ' + _kind(schema) if schema else ''}</p>"


def _responses(one: Mapping[str, Any], document: Mapping[str, Any]) -> str:
    rows = "".join(
        f'<tr><td><code class="s{status[0]}">{status}</code></td>'
        f"<td>{_response(response, document)}</td></tr>"
        for status, response in sorted(one["responses"].items())
    )
    return f"<h4>Answers</h4><table>{rows}</table>"


def _response(response: Mapping[str, Any], document: Mapping[str, Any]) -> str:
    if "$ref" in response:
        return _text(document["components"]["responses"][_name(response["$ref"])]["description"])
    media = response.get("content", {}).values()
    schemas = [one["schema"] for one in media if "schema" in one]
    kind = f"{_kind(schemas[0])}: " if schemas and "$ref" in schemas[0] else ""
    return kind + _text(response["description"])


def _schemas(document: Mapping[str, Any]) -> str:
    sections = "".join(
        f'<details id="schema-{name}"><summary><code>{name}</code></summary><div>'
        f"{_paragraphs(schema.get('description', ''))}{_fields(schema)}</div></details>"
        for name, schema in sorted(document["components"]["schemas"].items())
    )
    return f'<section id="schemas"><h2>schemas</h2>{sections}</section>'


def _fields(schema: Mapping[str, Any]) -> str:
    required = schema.get("required", ())
    rows = "".join(
        f"<tr><td><code>{escape(name)}</code>"
        f"{' <em>required</em>' if name in required else ''}</td>"
        f"<td>{_kind(field)}</td><td>{_text(field.get('description', ''))}</td></tr>"
        for name, field in schema.get("properties", {}).items()
    )
    return f"<table>{rows}</table>"


def _kind(schema: Mapping[str, Any]) -> str:
    """Return a schema in a few words, with a link where it has a name."""
    if "$ref" in schema:
        name = _name(schema["$ref"])
        return f'<a href="#schema-{name}">{name}</a>'
    if "anyOf" in schema:
        return " or ".join(_kind(option) for option in schema["anyOf"])
    if "enum" in schema:
        return " ".join(f"<code>{escape(str(value))}</code>" for value in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {_kind(schema.get('items', {}))}"
    return escape(f"{schema.get('type', 'any')}{_bounds(schema)}")


def _bounds(schema: Mapping[str, Any]) -> str:
    for low, high, unit in (
        ("minLength", "maxLength", " characters"),
        ("minimum", "maximum", ""),
        ("exclusiveMinimum", "maximum", ""),
        ("minProperties", "maxProperties", " entries"),
    ):
        if high in schema:
            sign = "over " if low.startswith("exclusive") and low in schema else ""
            if low in schema or low.startswith(("minLength", "minProperties")):
                return f", {sign}{schema.get(low, 0)} to {schema[high]}{unit}"
    return ""


def _curl(method: str, path: str, one: Mapping[str, Any]) -> str:
    """Return a request; of what customers receive, the body."""
    if not path.startswith("/"):
        media = next(iter(one["requestBody"]["content"].values()))
        return json.dumps(media["example"], indent=2)
    required = [
        f"{parameter['name']}=…"
        for parameter in one["parameters"]
        if parameter["in"] == "query" and parameter.get("required")
    ]
    query = f"?{'&'.join(required)}" if required else ""
    lines = [f'curl {"" if method == "GET" else f"-X {method} "}"{_EXAMPLE_HOST}{path}{query}"']
    if one["security"]:
        lines.append('-H "Authorization: Bearer $DISPATCHER_API_KEY"')
    for kind, media in list(one.get("requestBody", {}).get("content", {}).items())[:1]:
        lines.append(f'-H "Content-Type: {"text/plain" if kind == "*/*" else kind}"')
        lines.append(f"-d '{json.dumps(media['example'])}'" if "example" in media else "-d @result")
    return " \\\n  ".join(lines)


def _name(ref: str) -> str:
    return ref.rpartition("/")[2]


def _text(text: str) -> str:
    return _CODE.sub(r"<code>\1</code>", escape(text))


def _paragraphs(text: str) -> str:
    return "".join(f"<p>{_text(part)}</p>" for part in text.split("\n\n") if part.strip())
