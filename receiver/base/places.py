"""Who may look up a name next: tenants in turn, and within a tenant its domains in turn, with a
share of the places for each. Pure.

A look-up that hangs keeps its place for as long as the system likes. So what counts is how many
places one holds, and not what for: a quarter stays free for tenants that hold none.
"""

from collections import Counter, OrderedDict, deque
from typing import Final, Generic, TypeVar

Item = TypeVar("Item")
_NONE: Final[Counter[str]] = Counter()


def domain_of(host: str) -> str:
    """Return the part of a name whose owner most likely runs its name servers: the last two labels,
    or three below such as `co.uk`."""
    labels = host.rstrip(".").split(".")
    is_second_level = len(labels) > 2 and len(labels[-1]) == 2 and len(labels[-2]) <= 3
    return ".".join(labels[-3:] if is_second_level else labels[-2:])


class Places(Generic[Item]):
    """At most `places_max` look-ups at once. The same item may wait for several tenants: whoever's
    turn it is first starts it."""

    def __init__(self, places_max: int) -> None:
        self._places_max = places_max
        self._shared = max(1, places_max - places_max // 4)
        self._waiting: OrderedDict[str, OrderedDict[str, deque[Item]]] = OrderedDict()
        self._held: dict[str, Counter[str]] = {}  # by tenant and domain
        self._taken = 0

    @property
    def taken(self) -> int:
        """How many places are held."""
        return self._taken

    def add(self, tenant: str, domain: str, item: Item) -> None:
        """Have an item wait."""
        domains = self._waiting.setdefault(tenant, OrderedDict())
        domains.setdefault(domain, deque()).append(item)

    def remove(self, tenant: str, domain: str, item: Item) -> None:
        """Let go of an item, if it waits."""
        domains = self._waiting.get(tenant)
        if domains is not None and item in domains.get(domain, ()):
            domains[domain].remove(item)
            self._tidy(tenant, domain)

    def next(self) -> tuple[str, str, Item] | None:
        """Give a place to whose turn it is: tenant, domain and item; None where nobody who waits
        may have one."""
        for tenant, domains in self._waiting.items():
            places = self._of_tenant(tenant)
            held = self._held.get(tenant, _NONE)
            if held.total() >= places:
                continue
            for domain in domains:
                if held[domain] < _of_domain(places, len(held) + (domain not in held)):
                    return tenant, domain, self._give(tenant, domain)
        return None

    def _of_tenant(self, tenant: str) -> int:
        """How many places a tenant may hold now."""
        if self._taken >= self._shared:
            return 1 if self._taken < self._places_max else 0
        return max(1, self._shared // (len(self._held) + (tenant not in self._held)))

    def give_back(self, tenant: str, domain: str) -> None:
        """Free a place."""
        held = self._held[tenant]
        held[domain] -= 1
        if not held[domain]:
            del held[domain]
        if not held:
            del self._held[tenant]
        self._taken -= 1

    def _give(self, tenant: str, domain: str) -> Item:
        item = self._waiting[tenant][domain].popleft()
        self._waiting[tenant].move_to_end(domain)
        self._waiting.move_to_end(tenant)
        self._tidy(tenant, domain)
        self._held.setdefault(tenant, Counter())[domain] += 1
        self._taken += 1
        return item

    def _tidy(self, tenant: str, domain: str) -> None:
        domains = self._waiting[tenant]
        if not domains[domain]:
            del domains[domain]
        if not domains:
            del self._waiting[tenant]


def _of_domain(places: int, domains: int) -> int:
    """How many of a tenant's places one of its domains may hold: equal parts; alone, all but a
    quarter, so that the next one finds some free."""
    return max(1, places // domains if domains > 1 else places - places // 4)
