"""One request on a session of aiohttp, without what it does beside that for what we never use:
redirects, cookies, credentials, traces, a total timeout. A short body goes out with its head in one
write: nothing else has to be done meanwhile, so no task writes it, and what such a request is to
aiohttp is no more than its pools and parsers ask of it.

Half of a request's CPU went there. Pools, parsers, and what is raised are aiohttp's own.
"""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, Final, Protocol

import aiohttp
from aiohttp import hdrs
from aiohttp.client_reqrep import RequestInfo
from aiohttp.connector import Connection
from aiohttp.helpers import EMPTY_BODY_METHODS, TimerNoop
from aiohttp.http_writer import _serialize_headers
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

SHORT_BYTES_MAX: Final = 16 * 1024
"""Of a head and so long a body any connection that is not full takes all at once."""
_NO_TIMER: Final = TimerNoop()
_NO_HEADERS: Final = CIMultiDictProxy[str](CIMultiDict())
_NO_WRITER: Final = SimpleNamespace(output_size=0)
_ACCEPT: Final = ("Accept", "*/*")
_HOST: Final = "Host"


class Watch(Protocol):
    """Who wants to know when a short request is written."""

    def begin(self, handler: Any) -> None:
        """Note the connection that it has."""

    def write(self) -> None:
        """Note that it is about to be written."""


class _Short(aiohttp.ClientRequest):
    """A request as far as a connector asks for it."""

    proxy = proxy_auth = proxy_headers = server_hostname = chunked = None
    headers: Any = _NO_HEADERS

    def __init__(self, session: aiohttp.ClientSession, method: str, url: URL) -> None:
        self.method = method
        self.url = self.original_url = url
        self.loop = session._loop
        self._session = session
        self._ssl = True


async def request(
    session: aiohttp.ClientSession,
    method: str,
    url: URL,
    headers: Sequence[tuple[str, str]],
    body: Any,
    watch: Watch | None = None,
) -> aiohttp.ClientResponse:
    """Return the answer once its head is there; its body is to be read, or to be released. The
    session has no proxy; no name stands twice in `headers`. `watch` is told of a short request.
    Raises what `session.request` raises."""
    connector, timeout = session.connector, session.timeout
    if connector is None or session.closed:
        raise RuntimeError("Session is closed")
    is_short = body is None or (isinstance(body, bytes) and len(body) <= SHORT_BYTES_MAX)
    made = _Short(session, method, url) if is_short else _long(session, method, url, headers, body)
    try:
        try:
            connection = await connector.connect(made, traces=[], timeout=timeout)
        except TimeoutError as error:
            raise aiohttp.ConnectionTimeoutError(f"Connection timeout to host {url}") from error
        try:
            _prepare(session, method, connection, timeout.sock_read)
            if not is_short:
                del body  # the request lets go of it once it is out
                response = await made.send(connection)
            else:
                head = _head(session, method, url, headers, body)
                response = _written(session, made, connection, head + (body or b""), watch)
            try:
                return await response.start(connection)
            except BaseException:
                response.close()
                raise
        except BaseException:
            connection.close()
            raise
    except aiohttp.ClientError:
        raise
    except OSError as error:
        if error.errno is None and isinstance(error, TimeoutError):
            raise
        raise aiohttp.ClientOSError(*error.args) from error


def _long(
    session: aiohttp.ClientSession,
    method: str,
    url: URL,
    headers: Sequence[tuple[str, str]],
    body: Any,
) -> aiohttp.ClientRequest:
    return session._request_class(
        method,
        url,
        headers=session._prepare_headers(headers),
        data=body,
        loop=session._loop,
        response_class=session._response_class,
        timer=_NO_TIMER,
        session=session,
    )


def _prepare(
    session: aiohttp.ClientSession, method: str, connection: Connection, read_timeout: float | None
) -> None:
    if connection.protocol is None:
        raise aiohttp.ClientConnectionError("the connection is closed")
    connection.protocol.set_response_params(
        timer=_NO_TIMER,
        skip_payload=method in EMPTY_BODY_METHODS,
        read_until_eof=True,
        auto_decompress=session._auto_decompress,
        read_timeout=read_timeout,
        read_bufsize=session._read_bufsize,
        timeout_ceil_threshold=5,
        max_line_size=session._max_line_size,
        max_field_size=session._max_field_size,
        max_headers=session._max_headers,
    )


def _head(
    session: aiohttp.ClientSession,
    method: str,
    url: URL,
    headers: Sequence[tuple[str, str]],
    body: bytes | None,
) -> bytes:
    """Return a request's head. Raises ValueError for what would break it."""
    lines = {_HOST: url.host_port_subcomponent or ""}
    lines.update(headers)
    names = "\n".join(lines).lower() + "\n"
    if "\nhost\n" in names:
        del lines[_HOST]
    lines |= {
        name: value
        for name, value in (*session._default_headers.items(), _ACCEPT)
        if f"\n{name}\n".lower() not in names
    }
    if body is not None:
        lines[hdrs.CONTENT_LENGTH] = str(len(body))
    elif method not in aiohttp.ClientRequest.GET_METHODS:
        lines[hdrs.CONTENT_LENGTH] = "0"
    if session._connector.force_close:  # type: ignore[union-attr]  # it is open
        lines[hdrs.CONNECTION] = "close"
    head: bytes = _serialize_headers(f"{method} {url.raw_path_qs} HTTP/1.1", lines)  # type: ignore[arg-type]  # of what it takes it uses `items`
    return head


def _written(
    session: aiohttp.ClientSession,
    made: aiohttp.ClientRequest,
    connection: Connection,
    data: bytes,
    watch: Watch | None,
) -> aiohttp.ClientResponse:
    """Write a request; return the answer to come. One that cannot be written ends as one that its
    peer did not wait for: the connection says how."""
    protocol = connection.protocol
    if protocol is None:
        raise aiohttp.ClientConnectionError("the connection is closed")
    if watch is not None:
        watch.begin(protocol)
        watch.write()
    transport = protocol.transport
    if transport is None or transport.is_closing():
        protocol.set_exception(aiohttp.ClientOSError(None, "cannot write to a closing connection"))
    else:
        transport.write(data)
        protocol.start_timeout()
    url = made.url
    return session._response_class(
        made.method,
        url,
        writer=None,
        continue100=None,
        timer=_NO_TIMER,
        request_info=RequestInfo(url, made.method, _NO_HEADERS, url),
        traces=[],
        loop=session._loop,
        session=session,
        stream_writer=_NO_WRITER,  # type: ignore[arg-type]  # it is only asked for its size
    )
