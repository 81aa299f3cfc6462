"""The doctor's question to the running service: how it was started. What a shell has set may be
another thing altogether."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from ipaddress import ip_network
from typing import Any

from dispatcher.client import Client, PostbackError, ServiceInfo
from dispatcher.client.calls.tenant import service_info
from dispatcher.settings import CA_FILE, ClientSettings, Settings, variable
from dispatcher.store import located
from dispatcher.store.errors import CannotStart
from receiver.base import tls
from receiver.base.checkup import Check, ok, warn
from receiver.base.settings import SettingError

_TIMEOUT_S = 3.0


@dataclass(frozen=True, slots=True)
class Started:
    """What the running service was started with."""

    info: ServiceInfo

    def has(self, name: str) -> bool:
        """Whether a setting that holds a secret is set there."""
        return variable(name) in self.info.secrets

    def over(self, settings: Settings) -> Settings:
        """Return these settings with what the service has in their place, as far as it is judged
        here."""
        given = self.info.settings
        networks = given.get(variable("allow_networks"), ())
        changes: dict[str, Any] = {
            "allow_networks": tuple(ip_network(text) for text in networks),
            "public_url": given.get(variable("public_url")),
            "hosts": tuple(given.get(variable("hosts"), ())),
            "proxy_url": None,
            "host": given.get(variable("host"), "127.0.0.1"),
            "port": given.get(variable("port"), settings.port),
        }
        return replace(settings, **changes)


def started(service: ClientSettings) -> Started | None:
    """Return what the running service says of itself; None where it does not answer, or not to this
    key."""
    if service.api_key is None:
        return None
    try:
        whom = None
        if service.ca_file is not None and service.url.startswith("https:"):
            whom = tls.trusted(CA_FILE, service.ca_file)
        with Client(
            service.url, service.api_key, tls=whom, retries=0, timeout_s=_TIMEOUT_S
        ) as client:
            return Started(client.call(service_info()))
    except (PostbackError, SettingError, ValueError):
        return None


def compared(settings: Settings, started: Started) -> Iterator[Check]:
    """Yield whether the service is what this shell takes it for."""
    info = started.info
    yield ok("asked", f"the running service, version {info.version}")
    try:
        own = located(settings.database_url)
    except CannotStart:  # what is checked above says so
        return
    if info.database != own:
        yield warn(
            "asked",
            f"its database is {info.database}; what is checked here is {own}, which this shell "
            "names",
            "set DISPATCHER_DATABASE_URL to the service's, or give --database-url",
        )
