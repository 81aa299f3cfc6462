"""Variables that look like settings of ours and that nothing reads: misspelt ones, and those that
Kubernetes puts into pods. Their values are never shown."""

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import Final

from receiver.base.log import Log
from receiver.base.settings import FILE

TOLD_MAX: Final = 20  # warnings of one start: somebody else's prefix may be ours
CURE: Final = "put `enableServiceLinks: false` into the pod's spec"
_NEAR: Final = 0.7
_COMPARED_MAX: Final = 200
_NAME_CHARS_MAX: Final = 100
_OF_TESTS: Final = "TEST_"  # what only our own tests read
# What a Service puts into the pods beside it: https://kubernetes.io, "Accessing the Service".
_LINK: Final = re.compile(
    r"(?:(?P<more>[A-Z0-9_]+?)_)??"
    r"(?P<what>SERVICE_HOST|SERVICE_PORT(?:_[A-Z0-9_]+)?"
    r"|PORT(?:_\d+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?)?)"
)
_LINK_VALUE: Final = re.compile(r"(tcp|udp|sctp)://")


@dataclass(frozen=True, slots=True, kw_only=True)
class Strays:
    """Names that no setting has, each with the one that was probably meant; and Services whose
    links are in the environment, each with how many variables they are."""

    unknown: tuple[tuple[str, str | None], ...] = ()
    links: tuple[tuple[str, int], ...] = ()

    def tell(self, log: Log) -> None:
        """Warn of each, once."""
        for service, count in self.links:
            log.warning(
                "Kubernetes' service links are in the environment",
                service=service,
                variables=count,
                advice=CURE,
            )
        for name, nearest in self.unknown[:TOLD_MAX]:
            meant = {} if nearest is None else {"nearest": nearest}
            log.warning("no setting reads this variable", variable=name, **meant)
        if len(self.unknown) > TOLD_MAX:
            log.warning("no setting reads more variables", count=len(self.unknown) - TOLD_MAX)

    def hint(self, message: str) -> str | None:
        """Return which of them may be why a setting that an error's message names is not set."""
        for name, nearest in self.unknown:
            if nearest is None:
                continue
            if re.search(rf"\b{nearest.removesuffix(FILE)}({FILE})?\b", message):
                return f"is {name} misspelt? no setting reads it, but there is {nearest}"
        return None


def find_strays(prefix: str, known: frozenset[str], environ: Mapping[str, str]) -> Strays:
    """Return the variables with our prefix, in whatever case, that are not among the known ones."""
    names = sorted(
        name
        for name in environ
        if name.upper().startswith(prefix)
        and name not in known
        and not name.startswith(f"{prefix}{_OF_TESTS}")
    )
    links = _links(prefix, names, environ)
    linked = {name for found in links.values() for name in found}
    unknown = [name[:_NAME_CHARS_MAX] for name in names if name not in linked]
    # The prefix, which all share, says nothing of how near a name is.
    by_end = {name.removeprefix(prefix): name for name in known}
    nearest = [_nearest(name[len(prefix) :], by_end) for name in unknown[:_COMPARED_MAX]]
    return Strays(
        unknown=tuple(zip_longest(unknown, nearest)),
        links=tuple((service, len(found)) for service, found in links.items()),
    )


def _links(prefix: str, names: Iterable[str], environ: Mapping[str, str]) -> dict[str, list[str]]:
    """Return what each Service has put there: it tells its host, or an address as a URL."""
    candidates: dict[str, list[str]] = {}
    certain = set()
    for name in names:
        match = _LINK.fullmatch(name.removeprefix(prefix))
        if match is None:
            continue
        service = f"{prefix}{match['more'] or ''}".strip("_").lower().replace("_", "-")
        has_url = _LINK_VALUE.match(environ[name]) is not None
        if match["what"] == "PORT" and not has_url:
            continue
        candidates.setdefault(service, []).append(name)
        if has_url or match["what"] == "SERVICE_HOST":
            certain.add(service)
    return {service: found for service, found in candidates.items() if service in certain}


def _nearest(end: str, known: Mapping[str, str]) -> str | None:
    near = difflib.get_close_matches(end.upper(), known, 1, _NEAR)
    return known[near[0]] if near else None
