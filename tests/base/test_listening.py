"""Where a server listens: `::` is for clients of both families."""

import socket

import pytest

from receiver.base import server
from receiver.base.settings import listening_url


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="no IPv6 here")
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_any_address_of_ipv6_takes_both_families(host: str) -> None:
    """And the commands of this machine find it."""
    with server.listen("::", 0) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection((host, port), timeout=10):
            pass
        assert listening_url("::", port) == f"http://127.0.0.1:{port}"


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="no IPv6 here")
def test_one_address_of_ipv6_is_that_one() -> None:
    with server.listen("::1", 0) as listener:
        port = listener.getsockname()[1]
        with (
            pytest.raises(ConnectionRefusedError),
            socket.create_connection(("127.0.0.1", port), timeout=10),
        ):
            pass
