"""Whom deliveries trust."""

import ssl

from dispatcher.settings import CA_FILE, Settings
from receiver.base.tls import system


def authorities(settings: Settings) -> ssl.SSLContext | None:
    """Return the system's authorities and those of `DISPATCHER_CA_FILE`; None for the system's
    alone. Raises SettingError."""
    return None if settings.ca_file is None else system(CA_FILE, settings.ca_file)
