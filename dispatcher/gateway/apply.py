"""Endpoints out of a file: read, compared with those that there are, and put in force.

A file is the whole truth about the endpoints that come from one: they are `managed`, changed there
alone, and removed when they are no longer in it. Others are left as they are, unless the file names
them: then they come from it from now on.
"""

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Final, Protocol, Self

from dispatcher.access import new_secret
from dispatcher.audit import Entry, MakeEntry
from dispatcher.gateway.header_values import read_local, signing_of
from dispatcher.jobs import rules as endpoint_rules
from dispatcher.jobs.endpoint import Endpoint, EndpointRules, LocalRef, dump_rules
from dispatcher.jobs.fields import RuleError
from dispatcher.store.errors import Conflict, EndpointChanged, NotFound
from dispatcher.values import SigningSecret
from receiver.base.settings import SettingError, read_file
from receiver.base.words import nearest

FILE_BYTES_MAX: Final = 4 * 1024 * 1024
ENDPOINTS_MAX: Final = 1_000
_TABLE: Final = "endpoints"
_SCHEMA: Final = "schema"


class ApplyError(SettingError):
    """A file that cannot be put in force: which (`path`), and where in it (`endpoint` and `field`),
    as far as that is known."""

    def __init__(
        self, message: str, *, path: str, endpoint: str | None = None, field: str | None = None
    ) -> None:
        super().__init__(message)
        self.path = path
        self.endpoint = endpoint
        self.field = field

    @classmethod
    def at(
        cls, path: str, reason: str, endpoint: str | None = None, field: str | None = None
    ) -> Self:
        """Return the error of what stands there."""
        places = [f"[{_TABLE}.{endpoint}]"] if endpoint is not None else []
        place = " ".join([*places, *([field] if field else [])])
        message = ": ".join(one for one in (path, place, reason) if one)
        return cls(message, path=path, endpoint=endpoint, field=field)

    @property
    def place(self) -> str:
        """Where in it: `endpoints`, and behind that what is known, with full stops between."""
        return ".".join(one for one in (_TABLE, self.endpoint, self.field) if one)


class Store(Protocol):
    """What is asked of the store of endpoints (`JobStore`)."""

    async def endpoints(self) -> Sequence[Endpoint]: ...

    async def put_endpoint(
        self,
        new: Endpoint,
        *,
        create: bool,
        secret: SigningSecret | None = None,
        now_ms: int,
        entries: Sequence[Entry] = (),
    ) -> Endpoint: ...

    async def remove_endpoint(
        self,
        name: str,
        *,
        managed: bool | None = None,
        now_ms: int,
        entries: Sequence[Entry] = (),
    ) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a file changes, by name: endpoints to make, to change and to remove; and those that are
    as it says already."""

    create: tuple[str, ...] = ()
    change: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()
    same: tuple[str, ...] = ()

    @property
    def changes(self) -> bool:
        """Whether anything is to be done."""
        return bool(self.create or self.change or self.remove)


# --- reading ---


def read(path: str, what: str) -> dict[str, EndpointRules]:
    """Return the endpoints of a file of ours, by name; `what` names it in errors: a variable or an
    option. A schema's path is relative to the file. Raises ApplyError."""
    documents = read_documents(path, what)
    found: dict[str, EndpointRules] = {}
    for name, document in documents.items():
        try:
            found[name] = endpoint_rules.read(document, spelling="snake", managed=True)
        except RuleError as error:
            raise ApplyError.at(path, error.reason, name, error.field) from None
    return found


def read_documents(path: str, what: str) -> dict[str, dict[str, Any]]:
    """Return the tables of a file, by the names of their endpoints, with schemas in place of their
    paths; what stands in them is not checked. Raises ApplyError."""
    try:
        text = read_file(what, path, bytes_max=FILE_BYTES_MAX)
    except SettingError as error:
        raise ApplyError(str(error), path=path) from None
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise ApplyError.at(path, f"is not TOML: {error}") from None
    for table in document:
        if table != _TABLE:
            hint = nearest(table, (_TABLE,))
            raise ApplyError.at(path, f"[{table}] is no table of it, endpoints are{hint}")
    tables = document.get(_TABLE, {})
    if not isinstance(tables, dict):
        raise ApplyError.at(path, f"write a table [{_TABLE}.NAME] for each endpoint")
    if len(tables) > ENDPOINTS_MAX:
        raise ApplyError.at(path, f"at most {ENDPOINTS_MAX} endpoints")
    return {name: _document(path, name, table) for name, table in tables.items()}


def _document(path: str, name: str, table: Any) -> dict[str, Any]:
    try:
        endpoint_rules.check_name(name)
    except RuleError as error:
        raise ApplyError.at(path, f"a name {error.reason}", name) from None
    if not isinstance(table, dict):
        message = f"{path}: {_TABLE}.{name} must be a table: [{_TABLE}.{name}]"
        raise ApplyError(message, path=path, endpoint=name)
    schema = table.get(_SCHEMA)
    return table | {_SCHEMA: _schema(path, name, schema)} if isinstance(schema, str) else table


def _schema(path: str, name: str, schema: str) -> Any:
    """Return the schema that stands in a file beside this one."""
    where = f"{path}: [{_TABLE}.{name}] {_SCHEMA}"
    try:
        return json.loads(read_file(where, str(Path(path).parent / schema)))
    except SettingError as error:
        raise ApplyError(str(error), path=path, endpoint=name, field=_SCHEMA) from None
    except (ValueError, RecursionError) as error:
        raise ApplyError.at(path, f"{schema} is not JSON: {error}", name, _SCHEMA) from None


def read_own(path: str, what: str, folder: str | None) -> dict[str, EndpointRules]:
    """Return the endpoints of a file of this server's own, which names values that are there;
    `folder` holds those of `file:`. Raises ApplyError."""
    found = read(path, what)
    for name, rules in found.items():
        named = {f"headers.{header}": value for header, value in rules.headers}
        for field, value in {**named, "signing_secret": rules.signing_secret}.items():
            if not isinstance(value, LocalRef):
                continue
            try:
                text = read_local(value, folder)
                if value is rules.signing_secret:
                    signing_of(value, text)
            except SettingError as error:
                raise ApplyError.at(path, str(error), name, field) from None
    return found


# --- comparing ---


def plan_of(current: Sequence[Endpoint], wanted: Mapping[str, EndpointRules]) -> Plan:
    """Return what is to be done so that the managed endpoints are these."""
    known = {one.name: one for one in current}
    create, change, same = [], [], []
    for name, rules in wanted.items():
        before = known.get(name)
        if before is None:
            create.append(name)
        elif before.managed and before.rules == rules:
            same.append(name)
        else:
            change.append(name)
    gone = [one.name for one in current if one.managed and one.name not in wanted]
    return Plan(create=tuple(create), change=tuple(change), remove=tuple(gone), same=tuple(same))


def changed_fields(before: EndpointRules, after: EndpointRules) -> list[str]:
    """Return the names of the rules that differ."""
    names = [one.name for one in fields(EndpointRules)]
    return [name for name in names if getattr(before, name) != getattr(after, name)]


# --- putting in force ---


async def apply(
    store: Store, wanted: Mapping[str, EndpointRules], *, now_ms: int, entry: MakeEntry
) -> Plan:
    """Make these the managed endpoints, each in a commit of its own; `entry` makes those of the
    audit trail. Where several processes do the same at once, each finds it done. Returns what was
    done. Raises Conflict while what waited for a removed one of the same name has not ended; all
    the rest is done then."""
    current = {one.name: one for one in await store.endpoints()}
    plan = plan_of(tuple(current.values()), wanted)
    conflict: Conflict | None = None
    for name in (*plan.create, *plan.change):
        try:
            await _put(store, name, wanted[name], current.get(name), now_ms=now_ms, entry=entry)
        except Conflict as error:
            conflict = error
    for name in plan.remove:
        removed = entry("endpoint.remove", name, tenant=None, managed=True)
        try:
            await store.remove_endpoint(name, managed=True, now_ms=now_ms, entries=[removed])
        except (NotFound, EndpointChanged):
            continue
    if conflict is not None:
        raise conflict
    return plan


async def _put(
    store: Store,
    name: str,
    rules: EndpointRules,
    before: Endpoint | None,
    *,
    now_ms: int,
    entry: MakeEntry,
) -> None:
    if before is None:
        new = Endpoint(
            name=name,
            rules=rules,
            text=dump_rules(rules),
            managed=True,
            created_ms=now_ms,
            updated_ms=now_ms,
        )
        made = entry("endpoint.create", name, tenant=None, managed=True)
        secret = None
        if rules.signing_secret is None:
            secret = new_secret("", now_ms, endpoint=name)
        try:
            await store.put_endpoint(new, create=True, secret=secret, now_ms=now_ms, entries=[made])
        except Conflict:
            before = {one.name: one for one in await store.endpoints()}.get(name)
            if before is None:
                raise
        else:
            return
    if before.managed and before.rules == rules:
        return
    changed = replace(before, rules=rules, text=dump_rules(rules), managed=True, updated_ms=now_ms)
    names = changed_fields(before.rules, rules)
    told = entry("endpoint.change", name, tenant=None, managed=True, fields=names)
    await store.put_endpoint(changed, create=False, now_ms=now_ms, entries=[told])
