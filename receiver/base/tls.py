"""Whom we trust where we are the client: the usual authorities, and beside them those of a file."""

import re
import ssl
from functools import cache
from typing import Final

from receiver.base.settings import MIB, SettingError, read_file

BUNDLE_BYTES_MAX: Final = 4 * MIB  # twenty times what systems trust
# What stands between them (names, in any language) is for people.
_CERTIFICATE: Final = re.compile(
    r"-----BEGIN CERTIFICATE-----[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----"
)


@cache
def trusted(name: str = "", ca_file: str | None = None) -> ssl.SSLContext:
    """Return the authorities that SSL_CERT_FILE or SSL_CERT_DIR names, as for OpenSSL, else the
    usual ones, for every httpx client of ours, and those of `ca_file`, which the variable `name`
    names: reading them takes 20 ms of CPU. Nothing else of the environment counts. Raises
    SettingError for what cannot be read."""
    import httpx  # not where the standard library's client is used

    try:
        context = httpx.create_ssl_context(trust_env=True)
    except OSError as error:
        why = error.strerror or error
        raise SettingError(f"SSL_CERT_FILE or SSL_CERT_DIR cannot be used: {why}") from None
    return _with(context, name, ca_file)


@cache
def system(name: str, ca_file: str | None) -> ssl.SSLContext:
    """Return the system's authorities, as OpenSSL finds them, and those of `ca_file`, for clients
    other than httpx. Raises SettingError."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return _with(context, name, ca_file)


def _with(context: ssl.SSLContext, name: str, ca_file: str | None) -> ssl.SSLContext:
    if ca_file is None:
        return context
    found = _CERTIFICATE.findall(read_file(name, ca_file, bytes_max=BUNDLE_BYTES_MAX))
    try:
        context.load_verify_locations(cadata="\n".join(found))
    except (ssl.SSLError, ValueError):
        raise SettingError(
            f"{name}: {ca_file} does not hold certificates in PEM, one or more"
        ) from None
    return context
