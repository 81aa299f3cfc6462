"""A model server for the benchmark: `python -m tests.bench.model [--tls FILE]`. It answers 1 KiB of
JSON at once; what is asked for under `/silent` it never answers."""

import argparse
import asyncio
import ssl
from functools import partial
from typing import Final

import uvloop

from tests.bench.framing import Framed

_BODY: Final = b'{"output": "' + b"y" * (1_024 - 14) + b'"}'
ANSWER: Final = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(_BODY)
    + _BODY
)
_BACKLOG: Final = 4_096


def main() -> None:
    """Serve on a free port, which is printed, until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tls", help="file with a certificate and its key")
    given = parser.parse_args()
    context = None
    if given.tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(given.tls)
    uvloop.run(_serve(context))


async def _serve(context: ssl.SSLContext | None) -> None:
    make = partial(asyncio.get_running_loop().create_server, _Connection, "127.0.0.1", 0)
    server = await make(backlog=_BACKLOG, ssl=context)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


class _Connection(Framed):
    length_name = b"\r\nContent-Length: "

    def message(self, data: bytes, start: int, body: int, end: int) -> None:
        if not data.startswith(b"POST /silent", start):
            self.transport.write(ANSWER)


if __name__ == "__main__":
    main()
