"""Whom we trust where we are the client."""

import ssl
from functools import cache

import httpx

from receiver.base.settings import SettingError


@cache
def trusted() -> ssl.SSLContext:
    """Return the authorities that SSL_CERT_FILE or SSL_CERT_DIR names, as for OpenSSL, else the
    usual ones, for every client of ours: reading them takes 20 ms of CPU. Nothing else of the
    environment counts. Raises SettingError for what cannot be read."""
    try:
        return httpx.create_ssl_context(trust_env=True)
    except OSError as error:
        why = error.strerror or error
        raise SettingError(f"SSL_CERT_FILE or SSL_CERT_DIR cannot be used: {why}") from None
