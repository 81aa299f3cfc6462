"""The rules of an endpoint, read from a document and shown as one. Pure.

A document is what the API takes (camelCase), or a table of the server's file (snake_case): the same
fields, durations and sizes. Whatever is wrong is a RuleError that names the field as it was
written.
"""

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from dispatcher import headers as header_rules
from dispatcher import policy as policies
from dispatcher.headers import HeaderError, Reference
from dispatcher.jobs.blobs import OUTPUT_BYTES_MAX
from dispatcher.jobs.endpoint import (
    CallbackDefaults,
    EndpointRules,
    HeaderValue,
    HealthCheck,
    Keep,
    LocalRef,
    RetryWaits,
    StopCall,
    Wake,
)
from dispatcher.jobs.fields import (
    Read,
    RuleError,
    boolean,
    bytes_of,
    camel,
    check_known,
    integer,
    items,
    mapping,
    matching,
    number,
    seconds,
    word,
    written_duration,
    written_size,
)
from dispatcher.jobs.schema import InputSchema, SchemaError
from dispatcher.policy import GONE, PRESETS, TIMEOUT_MS_MAX, Policy
from dispatcher.values import SecretRef
from receiver.base.completion import HEADER_CHARS_MAX, HEADERS_MAX
from receiver.base.words import nearest

Spelling = Literal["camel", "snake"]

ENDPOINT_NAME: Final = r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}"
RESERVED_NAMES: Final = frozenset({"endpoints", "jobs", "projects", "outputs"})
"""They would read as another route where platforms' own paths are served."""
LOCAL_PREFIX: Final = "DISPATCHER_UPSTREAM_"
"""With it begin all variables that `env:` may name."""
FUNCTION: Final = "{function}"
URL_CHARS_MAX: Final = 2_048
_NAME: Final = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
_DAY_S: Final = 86_400
_LONG_S: Final = 3_650 * _DAY_S
_RUN_S_MAX: Final = 7 * _DAY_S
_CODES: Final = integer(400, 599)

_LOCAL: Final = ("env", "file")
_REFERENCES: Final = ("secret", *_LOCAL)
# Set by the connection, or by us for each call.
_REFUSED: Final = frozenset({
    "accept-encoding", "connection", "content-length", "expect", "idempotency-key", "keep-alive",
    "te", "trailer", "transfer-encoding", "upgrade",
})  # fmt: skip
_REFUSED_PREFIXES: Final = (
    "proxy-",
    "svix-",
    "webhook-",
    "x-job-",
    "x-postback-",
    "x-webhook-signature",
)


# --- one field each, by the names of the file; those of an attribute of the same name first ---

_PLAIN: Final[Mapping[str, Read]] = {
    "kind": word("http", "runpod", "cog"),
    "method": word("POST", "PUT", "PATCH"),
    "body": word("auto", "raw", "input", "envelope"),
    "concurrency": integer(1, 65_536),
    "rate": number(0.001, 10_000),
    "adaptive": boolean,
    "timeout": seconds(0.1, _RUN_S_MAX),
    "timeout_max": seconds(0.1, _RUN_S_MAX),
    "queue_timeout": seconds(0.1, 30 * _DAY_S),
    "delivery": word("at-least-once", "at-most-once"),
    "attempts": integer(1, 50),
    "repeat_within": seconds(0, _RUN_S_MAX),
    "completion": word("response", "url"),
    "progress": boolean,
    "heartbeat_timeout": seconds(1, _RUN_S_MAX),
    "functions": items(matching(_NAME, "1 to 64 letters, digits or any of . _ -"), 1, 100),
    "priority_scope": word("customer", "endpoint"),
    "on_disconnect": word("cancel", "keep"),
    "queue_max": integer(0, 10**9),
    "queue_max_tenant": integer(0, 10**9),
    "input_max": bytes_of(0, OUTPUT_BYTES_MAX),
    "output_max": bytes_of(1, OUTPUT_BYTES_MAX),
    "expected_output": bytes_of(0, OUTPUT_BYTES_MAX),
    "cool_down": seconds(0, _DAY_S),
    "expected_duration": seconds(0.001, _RUN_S_MAX),
    "tenants": items(matching(rf"\*|{_NAME}", "a customer's name, or * for all"), 1, 1_000),
}
_ABSENT: Final[Mapping[str, str]] = {}
_PARTS: Final = frozenset({
    "url", "retry_on", "busy", "schema", "keep", "headers", "signing_secret", "retry", "callback",
    "price", "cancel", "health", "wake",
})  # fmt: skip
FIELDS: Final = frozenset({*_PLAIN, *_ABSENT, *_PARTS})
"""All fields of an endpoint but its name, as the file spells them."""
_SNAKE: Final = {camel(name): name for name in FIELDS}
# Those with fields of their own, which a change changes one by one; but one that is this or that.
_NESTED: Final = frozenset({"keep", "retry", "callback", "price", "cancel", "health", "wake"})
_MERGED: Final = _NESTED - {"cancel"}


def check_name(name: object) -> str:
    """Return the name of an endpoint. Raises RuleError."""
    if not isinstance(name, str) or not re.fullmatch(ENDPOINT_NAME, name):
        reason = "must be 1 to 64 letters, digits or any of _ -, and begin with no sign"
        raise RuleError("name", name, reason)
    if name in RESERVED_NAMES:
        raise RuleError("name", name, "is reserved: platforms' own paths begin so")
    return name


def read(
    document: Mapping[str, Any], *, spelling: Spelling = "camel", managed: bool = False
) -> EndpointRules:
    """Return the rules that a document says; a field that is null counts as not there. References
    to this server's own disk and environment are for `managed` ones alone: those of its own file.
    Raises RuleError."""
    return _Reading(spelling, managed=managed).rules(mapping(document, "endpoint"))


def merged(rules: EndpointRules, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the document of rules with some changes, to be read: null puts a field back to its
    default; of the fields that have some of their own, those are changed one by one."""
    document = document_of(rules)
    if rules.headers:
        document["headers"] = {name: _written_header(value) for name, value in rules.headers}
    if rules.signing_secret is not None:
        document[camel("signing_secret")] = _written_header(rules.signing_secret)
    for name, value in changes.items():
        before = document.get(name)
        if name in _MERGED and isinstance(before, dict) and isinstance(value, Mapping):
            document[name] = {**before, **value}
        else:
            document[name] = value
    return document


def _written_header(value: HeaderValue) -> str:
    """Return what is read as this value."""
    if isinstance(value, str):
        return header_rules.written_value(value, *_REFERENCES)
    kind = "secret" if isinstance(value, SecretRef) else value.kind
    return f"{value.prefix}{kind}:{value.name}"


def document_of(rules: EndpointRules, spelling: Spelling = "camel") -> dict[str, Any]:
    """Return rules as a document, in full; given back, it means the same. Headers are not there:
    their values are never shown, and their names stand elsewhere (`header_names`)."""
    shown: dict[str, Any] = {"url": rules.url}
    for name in _PLAIN:
        value = getattr(rules, name)
        if value is not None:
            shown[name] = _shown(name, value)
    shown["retry_on"] = [*(["unknown"] if rules.retry_unknown else []), *sorted(rules.retry_codes)]
    shown["busy"] = sorted(rules.busy)
    keep, retry = rules.keep, rules.retry
    shown["keep"] = {
        name: written_duration(getattr(keep, name)) for name in ("input", "output", "job")
    }
    shown["retry"] = {
        "base": written_duration(retry.base),
        "factor": retry.factor,
        "cap": written_duration(retry.cap),
    }
    callback = {
        "policy": _shown_policy(rules.callback.policy),
        "destination": rules.callback.destination,
        "events": None if rules.callback.events == ("end",) else list(rules.callback.events),
    }
    callback = {name: value for name, value in callback.items() if value is not None}
    if callback:
        shown["callback"] = callback
    if rules.price_per_second is not None:
        shown["price"] = {"per_second": rules.price_per_second}
    shown["cancel"] = "close" if rules.cancel is None else _shown_parts(rules.cancel)
    for name in ("health", "wake"):
        part = getattr(rules, name)
        if part is not None:
            shown[name] = _shown_parts(part)
    if rules.schema is not None:
        shown["schema"] = dict(rules.schema.document)
    if spelling == "snake":
        return shown
    return {
        camel(name): _camel_inside(value) if name in _NESTED else value
        for name, value in shown.items()
    }


def header_names(rules: EndpointRules) -> list[str]:
    """Return the names of the headers that an endpoint adds to its calls."""
    return [name for name, _ in rules.headers]


def _shown(name: str, value: Any) -> Any:
    if name in ("input_max", "output_max", "expected_output"):
        return written_size(value)
    if name in _DURATIONS:
        return written_duration(value)
    return list(value) if isinstance(value, tuple) else value


def _shown_parts(part: StopCall | HealthCheck | Wake) -> dict[str, Any]:
    shown = {name: value for name, value in asdict(part).items() if value is not None}
    times = ("every", "timeout")
    return {name: written_duration(v) if name in times else v for name, v in shown.items()}


_DURATIONS: Final = frozenset({
    "timeout", "timeout_max", "queue_timeout", "repeat_within", "expected_duration",
    "heartbeat_timeout", "cool_down",
})  # fmt: skip


def _camel_inside(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    return {camel(name): _camel_inside(inner) for name, inner in value.items()}


@dataclass(frozen=True, slots=True)
class _Reading:
    """One document, as it is read."""

    spelling: Spelling
    managed: bool

    def rules(self, document: Mapping[str, Any]) -> EndpointRules:
        fields: dict[str, Any] = {}
        for written, value in document.items():
            name = self._known(written)
            if value is None:
                continue
            if name in _PLAIN:
                fields[name] = _PLAIN[name](value, written)
            elif name in _ABSENT:
                raise RuleError(written, value, _ABSENT[name])
            else:
                fields |= _READ_PARTS[name](self, value, written)
        if "url" not in fields:
            raise RuleError("url", None, "is required")
        rules = EndpointRules(**fields)
        self._check_together(rules)
        return rules

    def _known(self, written: str) -> str:
        name = written if self.spelling == "snake" else _SNAKE.get(written, "")
        if name not in FIELDS:
            known = FIELDS if self.spelling == "snake" else _SNAKE
            raise RuleError(written, None, f"is no field of an endpoint{nearest(written, known)}")
        return name

    def _spelled(self, name: str) -> str:
        return name if self.spelling == "snake" else camel(name)

    def _check_together(self, rules: EndpointRules) -> None:
        """Refuse what contradicts itself."""
        longest = rules.timeout_max
        if rules.timeout is not None and longest is not None and rules.timeout > longest:
            most = written_duration(longest)
            field = self._spelled("timeout")
            reason = f"is longer than {self._spelled('timeout_max')} ({most})"
            raise RuleError(field, written_duration(rules.timeout), reason)
        for name in ("input", "output"):
            if getattr(rules.keep, name) > rules.keep.job:
                reason = "is longer than the job itself is kept (keep.job)"
                raise RuleError(f"keep.{name}", None, reason)
        for name in ("completion", "heartbeat_timeout"):
            if not rules.progress and getattr(rules, name) not in ("response", None):
                reason = f"needs the URLs that {self._spelled('progress')} = false leaves out"
                raise RuleError(self._spelled(name), None, reason)
        if rules.retry.cap < rules.retry.base:
            raise RuleError("retry.cap", None, "is less than retry.base")
        if rules.kind == "cog" and not rules.progress:
            reason = f"a cog server ends jobs by URL: {self._spelled('progress')} must be true"
            raise RuleError("kind", rules.kind, reason)
        if rules.kind != "http" and FUNCTION in rules.url:
            raise RuleError("url", rules.url, f"has {FUNCTION}: kind = {rules.kind} has one route")

    # --- the fields that are more than a value ---

    def url(self, value: Any, path: str) -> dict[str, Any]:
        check_url(value, path)
        return {"url": value}

    def retry_on(self, value: Any, path: str) -> dict[str, Any]:
        def one(item: Any, at: str) -> Any:
            if isinstance(item, str):
                return word("unknown")(item, at)
            return _CODES(item, at)

        given = items(one, 0, 20)(value, path)
        codes = frozenset(code for code in given if code != "unknown")
        return {"retry_unknown": "unknown" in given, "retry_codes": codes}

    def busy(self, value: Any, path: str) -> dict[str, Any]:
        return {"busy": frozenset(items(_CODES, 0, 20)(value, path))}

    def schema(self, value: Any, path: str) -> dict[str, Any]:
        try:
            schema = InputSchema(mapping(value, path))
            schema.compile()
        except SchemaError as error:
            at = f"{path}.{error.path}" if error.path else path
            raise RuleError(at, None, error.reason) from None
        return {"schema": schema}

    def keep(self, value: Any, path: str) -> dict[str, Any]:
        one = seconds(0, _LONG_S)
        return {"keep": Keep(**self._inner(value, path, input=one, output=one, job=one))}

    def retry(self, value: Any, path: str) -> dict[str, Any]:
        wait = seconds(0.001, _DAY_S)
        fields = self._inner(value, path, base=wait, factor=number(1, 100), cap=wait)
        return {"retry": RetryWaits(**fields)}

    def price(self, value: Any, path: str) -> dict[str, Any]:
        fields = self._inner(value, path, per_second=number(0, 1_000_000))
        return {"price_per_second": fields.get("per_second")}

    def cancel(self, value: Any, path: str) -> dict[str, Any]:
        if isinstance(value, str):
            word("close")(value, path)
            return {"cancel": None}
        fields = self._inner(
            value,
            path,
            method=word("POST", "PUT", "DELETE"),
            path=_path,
            url=_url,
        )
        if ("path" in fields) == ("url" in fields):
            raise RuleError(path, None, "needs `path`, of the upstream's own server, or `url`")
        return {"cancel": StopCall(**fields)}

    def health(self, value: Any, path: str) -> dict[str, Any]:
        fields = self._inner(
            value,
            path,
            path=_path,
            every=seconds(1, _DAY_S),
            timeout=seconds(0.1, 60),
            failures=integer(1, 100),
        )
        if "path" not in fields:
            raise RuleError(f"{path}.path", None, "is required")
        return {"health": HealthCheck(**fields)}

    def wake(self, value: Any, path: str) -> dict[str, Any]:
        fields = self._inner(value, path, url=_url, every=seconds(1, _DAY_S))
        if "url" not in fields:
            raise RuleError(f"{path}.url", None, "is required")
        return {"wake": Wake(**fields)}

    def callback(self, value: Any, path: str) -> dict[str, Any]:
        name = matching(_NAME, "the name of a registered destination")
        events = items(word("start", "progress", "output", "end"), 1, 4)
        fields = self._inner(value, path, policy=self._policy, destination=name, events=events)
        return {"callback": CallbackDefaults(**fields)}

    def headers(self, value: Any, path: str) -> dict[str, Any]:
        given = mapping(value, path)
        if len(given) > HEADERS_MAX:
            raise RuleError(path, None, f"must be at most {HEADERS_MAX}")
        seen: set[str] = set()
        read = []
        for name, text in given.items():
            read.append((name, self._header(name, text, f"{path}.{name}")))
            if name.lower() in seen:
                raise RuleError(f"{path}.{name}", None, "is there twice, in different case")
            seen.add(name.lower())
        return {"headers": tuple(read)}

    def _inner(self, value: Any, at: str, /, **readers: Read) -> dict[str, Any]:
        """Return the fields of one that has some of its own."""
        given = mapping(value, at)
        names = {self._spelled(name): name for name in readers}
        check_known(given, names, at)
        return {
            names[written]: readers[names[written]](one, f"{at}.{written}")
            for written, one in given.items()
            if one is not None
        }

    def _header(self, name: str, value: Any, path: str) -> HeaderValue:
        """Return what a header is made of. Its value is in no error."""
        if not isinstance(value, str):
            raise RuleError(path, None, "must be a text")
        try:
            header_rules.check_name(name, _REFUSED, _REFUSED_PREFIXES)
            header_rules.check_value(value, HEADER_CHARS_MAX)
            read = header_rules.read_value(value, *_REFERENCES)
        except HeaderError as error:
            raise RuleError(path, None, str(error)) from None
        if isinstance(read, str):
            return read
        if read.kind == "secret":
            if not re.fullmatch(header_rules.STORED_NAME, read.name):
                raise RuleError(path, None, "`secret:` is followed by a stored secret's name")
            return SecretRef(read.name, read.prefix)
        if not self.managed:
            reason = f"`{read.kind}:` is for endpoints of the server's own file alone; store a "
            hint = header_rules.literal_hint(read.kind)
            raise RuleError(path, None, f"{reason}secret and name it (`secret:NAME`); {hint}")
        return _local(read, path)

    def signing_secret(self, value: Any, path: str) -> dict[str, Any]:
        """Read where the secret stands that signs calls. What is given is in no error: it may be
        the secret."""
        if not self.managed:
            reason = "is for endpoints of the server's own file alone; each other has a secret of "
            raise RuleError(path, None, f"{reason}its own, which can be rotated")
        read = None
        if isinstance(value, str):
            with suppress(HeaderError):
                read = header_rules.read_value(value, *_LOCAL)
        if not isinstance(read, Reference) or read.prefix:
            raise RuleError(
                path, None, "must be `file:PATH` or `env:NAME`, never the secret itself"
            )
        return {"signing_secret": _local(read, path)}

    def _policy(self, value: Any, path: str) -> str:
        """Return a policy as the store keeps it: a preset's name, or its text."""
        if isinstance(value, str):
            preset: str = word(*PRESETS)(value, path)
            return preset
        return policies.dump(self._policy_object(value, path))

    def _policy_object(self, value: Any, path: str) -> Policy:
        wait, default = seconds(0, _RUN_S_MAX), PRESETS[policies.DEFAULT]
        fields = self._inner(
            value,
            path,
            attempts=integer(1, 50),
            delays=_waits,
            exponential=lambda one, at: self._inner(
                one, at, base=wait, factor=number(0.001, 100), cap=wait
            ),
            jitter=number(0, 1),
            timeout=seconds(0.1, TIMEOUT_MS_MAX / 1000),
            acknowledge=_acknowledge,
            max_age=seconds(1, 30 * _DAY_S),
            turned_away=word("free", "try"),
            retry=_retried,
        )
        if "attempts" not in fields:
            raise RuleError(f"{path}.attempts", None, "is required")
        grown = fields.pop("exponential", {})
        if grown and "delays" in fields:
            raise RuleError(path, None, "give delays or exponential, not both")
        for name in ("jitter", "timeout", "max_age"):
            fields.setdefault(name, getattr(default, name))
        return Policy(**fields, **grown)


def _path(value: Any, path: str) -> str:
    """Read a path of the upstream's own server."""
    if not isinstance(value, str) or not 1 <= len(value) <= URL_CHARS_MAX:
        raise RuleError(path, None, f"must be a text of 1 to {URL_CHARS_MAX} characters")
    if not value.startswith("/") or value.startswith("//"):
        raise RuleError(path, value, "must begin with /")
    check_url(f"http://upstream{value}", path)
    return value


def _url(value: Any, path: str) -> str:
    check_url(value, path)
    return str(value)


def _local(read: Reference, path: str) -> LocalRef:
    if read.kind == "env" and not read.name.startswith(LOCAL_PREFIX):
        raise RuleError(path, None, f"`env:` names variables that begin with {LOCAL_PREFIX}")
    return LocalRef("env" if read.kind == "env" else "file", read.name, read.prefix)


def _waits(value: Any, path: str) -> tuple[float, ...]:
    """Read waits, of which some may be alike."""
    if not isinstance(value, list) or not 1 <= len(value) <= 50:
        raise RuleError(path, None, "must be a list of 1 to 50 durations")
    one = seconds(0, _RUN_S_MAX)
    return tuple(one(wait, f"{path}[{n}]") for n, wait in enumerate(value))


def _acknowledge(value: Any, path: str) -> Any:
    return value if value == "2xx" else _response_codes(value, path)


def _retried(value: Any, path: str) -> Any:
    return value if value == "all" else _response_codes(value, path)


def _response_codes(value: Any, path: str) -> frozenset[int]:
    codes = frozenset(items(integer(200, 599), 0, 20)(value, path))
    if GONE in codes:
        raise RuleError(path, GONE, "410 always means gone")
    return codes


def _shown_policy(text: str | None) -> Any:
    """Return a kept policy as a document."""
    if text is None or text in PRESETS:
        return text
    policy = policies.load(text)
    shown: dict[str, Any] = {
        "attempts": policy.attempts,
        "jitter": policy.jitter,
        "timeout": policy.timeout,
        "acknowledge": policy.acknowledge
        if isinstance(policy.acknowledge, str)
        else sorted(policy.acknowledge),
        "max_age": policy.max_age,
        "turned_away": policy.turned_away,
        "retry": policy.retry if isinstance(policy.retry, str) else sorted(policy.retry),
    }
    if policy.delays:
        return shown | {"delays": list(policy.delays)}
    grown = {"base": policy.base, "factor": policy.factor, "cap": policy.cap}
    return shown | {"exponential": grown}


_READ_PARTS: Final = {name: getattr(_Reading, name) for name in _PARTS}


def check_url(value: Any, path: str = "url") -> None:
    """Raise RuleError for what can be no upstream's URL. Where it may lead is judged elsewhere."""
    if not isinstance(value, str) or not 1 <= len(value) <= URL_CHARS_MAX:
        raise RuleError(path, None, f"must be a text of 1 to {URL_CHARS_MAX} characters")
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError:
        raise RuleError(path, value, "is no URL") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise RuleError(path, value, "must be http:// or https:// with a host")
    if not value.isascii() or not value.isprintable() or " " in value:
        raise RuleError(path, None, "must be visible ASCII")
    if "@" in parts.netloc:
        raise RuleError(path, None, "must not hold a password: it would be shown; use headers")
    if "#" in value:
        raise RuleError(path, value, "must have no fragment")
    if "{" in parts.netloc or "}" in parts.netloc:
        raise RuleError(path, value, f"may have {FUNCTION} in its path and query alone")
