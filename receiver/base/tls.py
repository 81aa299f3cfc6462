"""Whom we trust where we are the client."""

import ssl
from functools import cache

import httpx


@cache
def trusted() -> ssl.SSLContext:
    """Return the usual authorities, for every client of ours: reading them takes 20 ms of CPU.
    Nothing of the environment counts."""
    return httpx.create_ssl_context(trust_env=False)
