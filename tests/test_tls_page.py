"""deploy/tls.md: its numbers are ours, and what it configures keeps our promises.

The proxies themselves are tried where they are installed: each example, with its addresses and
certificates replaced, in front of a server that writes down what it gets.
"""

import asyncio
import os
import re
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import httpx
import pytest

import dispatcher.server
import dispatcher.settings
import receiver.settings
from dispatcher.api.app import OPERATIONS
from dispatcher.demo.processes import free_ports
from receiver.base.settings import FILE
from tests.authority import Authority
from tests.readme.documents import ROOT, blocks, read

PAGE: Final = ROOT / "deploy" / "tls.md"
MIB: Final = 2**20
OURS: Final = dispatcher.settings.Settings()
THEIRS: Final = receiver.settings.Settings()
# Of a Service, not of a setting.
LINKS: Final = {"DISPATCHER_PORT"}


def example(language: str) -> str:
    (found,) = blocks(PAGE, language)
    return found


def numbers(pattern: str, text: str) -> list[int]:
    found = [int(number) for number in re.findall(pattern, text)]
    assert found, pattern
    return found


def test_every_variable_that_it_names_is_a_setting() -> None:
    named = set(re.findall(r"\b(?:DISPATCHER|RECEIVER)_[A-Z][A-Z_]*[A-Z]\b", read(PAGE)))
    for prefix, module in (
        ("DISPATCHER_", dispatcher.settings),
        ("RECEIVER_", receiver.settings),
    ):
        of_this_half = {name: "" for name in named if name.startswith(prefix)}
        assert not module.strays(of_this_half).unknown
    assert f"DISPATCHER_ADMIN_KEY{FILE}" in named


@pytest.mark.parametrize(
    ("default", "said"),
    [
        (OURS.batch_bytes_max, "`DISPATCHER_BATCH_BYTES_MAX` (16 MiB)"),
        (THEIRS.body_bytes_max, "`RECEIVER_BODY_BYTES_MAX` (1 MiB)"),
        (THEIRS.header_bytes_max, "`RECEIVER_HEADER_BYTES_MAX` (96 KiB)"),
        (OURS.write_timeout, "`DISPATCHER_WRITE_TIMEOUT` (30 s)"),
        (THEIRS.write_timeout, "`RECEIVER_WRITE_TIMEOUT` (10 s)"),
        (OURS.request_timeout, "`DISPATCHER_REQUEST_TIMEOUT` (30 s)"),
        (THEIRS.request_timeout, "`RECEIVER_REQUEST_TIMEOUT` (10 s)"),
        (dispatcher.server._KEEP_ALIVE_S, "75 s (dispatcher; `RECEIVER_KEEP_ALIVE`)"),
        (THEIRS.keep_alive, "75 s (dispatcher; `RECEIVER_KEEP_ALIVE`)"),
        (dispatcher.server._HEAD_BYTES_MAX, "32 KiB of a request to the dispatcher"),
    ],
)
def test_the_defaults_that_it_tells_are_the_defaults(default: float, said: str) -> None:
    assert said in read(PAGE)
    match = re.search(r"(\d+) (MiB|KiB|s)\b", said)
    assert match is not None
    assert int(match[1]) * {"MiB": MIB, "KiB": 1024, "s": 1}[match[2]] == default


@pytest.mark.parametrize("language", ["nginx", "caddyfile", "haproxy"])
def test_examples_name_the_addresses_and_paths_that_there_are(language: str) -> None:
    text = example(language)
    assert set(numbers(r"127\.0\.0\.1:(\d+)", text)) == {OURS.port, THEIRS.port}
    passed_on = ("/v1/", "/v2/", "/v4/")
    assert all(prefix in text for prefix in passed_on)
    assert THEIRS.path in text
    inside = {"/healthz", "/readyz", "/metrics"}
    assert {one.path for one in OPERATIONS if not one.path.startswith(passed_on)} == inside


def test_no_example_lets_less_through_than_we_take() -> None:
    """Bodies and heads, and 1 MiB more than the receiver takes, so that it says so itself."""
    nginx, caddy = example("nginx"), example("caddyfile")
    for pattern, text in ((r"client_max_body_size (\d+)m;", nginx), (r"max_size (\d+)MiB", caddy)):
        api, message = numbers(pattern, text)
        assert api * MIB == max(OURS.batch_bytes_max, OURS.payload_bytes_max)
        assert message * MIB > THEIRS.body_bytes_max
    (ingress,) = numbers(r"proxy-body-size: (\d+)m", read(PAGE))
    assert ingress * MIB == OURS.batch_bytes_max
    ((count, size),) = re.findall(r"large_client_header_buffers (\d+) (\d+)k;", nginx)
    assert int(count) * int(size) * 1024 >= THEIRS.header_bytes_max
    assert numbers(r"tune\.bufsize (\d+)", example("haproxy"))[0] > THEIRS.header_bytes_max


def test_every_idle_connection_ends_on_the_proxys_side_first() -> None:
    ours = min(dispatcher.server._KEEP_ALIVE_S, THEIRS.keep_alive)
    for pattern, text in (
        (r"keepalive_timeout (\d+)s", example("nginx")),
        (r"keepalive (\d+)s", example("caddyfile")),
        (r"timeout http-keep-alive (\d+)s", example("haproxy")),
        (r'upstream-keepalive-timeout: "(\d+)"', read(PAGE)),
    ):
        assert max(numbers(pattern, text)) < ours


def test_no_example_ends_what_we_are_still_answering() -> None:
    ours = max(OURS.write_timeout, OURS.request_timeout, THEIRS.request_timeout)
    for pattern, text in (
        (r"proxy_read_timeout (\d+)s", example("nginx")),
        (r"response_header_timeout (\d+)s", example("caddyfile")),
        (r"timeout server (\d+)s", example("haproxy")),
        (r'proxy-read-timeout: "(\d+)"', read(PAGE)),
        (r"timeouts: \{request: (\d+)s\}", read(PAGE)),
    ):
        assert min(numbers(pattern, text)) > ours


def test_bodies_have_as_long_as_here() -> None:
    api, message = numbers(r"client_body_timeout (\d+)s", example("nginx"))
    assert (api, message) == (OURS.request_timeout, THEIRS.request_timeout)
    assert numbers(r"timeout http-request (\d+)s", example("haproxy")) == [OURS.request_timeout]


def test_no_example_sends_a_post_twice() -> None:
    directives = re.sub(r"#.*", "", example("nginx"))
    assert "proxy_next_upstream error timeout;" in directives
    assert "non_idempotent" not in directives
    assert "lb_try" not in example("caddyfile")
    assert re.findall(r"retry-on (\S+)", example("haproxy")) == ["conn-failure"]
    assert re.findall(r"proxy-next-upstream: (.+)", read(PAGE)) == ["error timeout"]


def test_the_manifests_name_what_there_is() -> None:
    """Probe, port, arguments; and the cure of service links."""
    pod, ingress, route = blocks(PAGE, "yaml")
    assert "enableServiceLinks: false" in pod
    assert f"containerPort: {OURS.port}" in pod
    assert "{path: /readyz, port: http}" in pod
    assert "args: [dispatcher, serve]" in pod
    environ = dict(re.findall(r"\{name: (DISPATCHER_\w+), value: \"?([^\"}]+)\"?\}", pod))
    files = {name for name in environ if name.endswith(FILE)}
    secret = ("DATABASE_URL", "ADMIN_KEY", "ENCRYPTION_KEYS")
    assert files == {f"DISPATCHER_{name}{FILE}" for name in secret}
    mount = re.search(r"mountPath: (\S+),", pod)
    assert mount is not None
    assert all(environ.pop(name).startswith(f"{mount[1]}/") for name in files)
    assert dispatcher.settings.load(environ).peer_share == 1
    assert "path: /v1/" in ingress
    assert f"value: {THEIRS.path}}}" in route
    assert f"port: {THEIRS.port}}}" in route


# --- the proxies themselves ---


class Upstream:
    """A server that writes down each request as it came, and answers it unless told not to."""

    def __init__(self) -> None:
        self.requests: list[bytes] = []
        self.port = 0
        self.is_answering = True
        self.serving: set[asyncio.Task[None] | None] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.serving.add(asyncio.current_task())
        with suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                size = re.search(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)
                if size is not None:
                    body = await reader.readexactly(int(size[1]))
                elif re.search(rb"\r\ntransfer-encoding: *chunked", head, re.IGNORECASE):
                    body = await _chunks(reader)
                else:
                    body = b""
                if b" /readyz " not in head:
                    self.requests.append(head + body)
                    if not self.is_answering:
                        break
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                await writer.drain()
        writer.close()

    def header(self, name: str, n: int = -1) -> list[str]:
        head = self.requests[n].partition(b"\r\n\r\n")[0].decode("latin-1")
        return re.findall(rf"(?im)^{name}: *(.*?)\r?$", head)


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    body = b""
    while size := int(await reader.readline(), 16):
        body += await reader.readexactly(size)
        await reader.readline()
    await reader.readline()
    return body


@asynccontextmanager
async def upstream() -> AsyncIterator[Upstream]:
    made = Upstream()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0, limit=2**20)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()
        for task in filter(None, made.serving):
            task.cancel()
            await asyncio.wait([task])


Configured = tuple[list[str], dict[str, str]]


def _nginx(text: str, port: int, pem: Path, folder: Path) -> Configured:
    text = text.replace("listen 443 ssl", f"listen 127.0.0.1:{port} ssl")
    text = re.sub(r"(ssl_certificate(?:_key)?) \S+;", rf"\1 {pem};", text)
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = "\n".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)
    file = folder / "nginx.conf"
    file.write_text(
        f"daemon off;\nmaster_process off;\npid {folder}/pid;\nerror_log stderr;\n"
        f"events {{}}\nhttp {{\naccess_log off;\n{temporary}\n{text}}}\n"
    )
    return ["-e", "stderr", "-p", str(folder), "-c", str(file)], {}


def _caddy(text: str, port: int, pem: Path, folder: Path) -> Configured:
    for name in ("dispatcher", "hooks"):
        site = f"https://{name}.example.com:{port} {{\n\tbind 127.0.0.1\n\ttls {pem} {pem}"
        text = text.replace(f"{name}.example.com {{", site)
    file = folder / "Caddyfile"
    file.write_text(f"{{\n\tadmin off\n\tauto_https disable_redirects\n}}\n{text}")
    homes = {"XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
    return ["run", "--config", str(file), "--adapter", "caddyfile"], homes


def _haproxy(text: str, port: int, pem: Path, folder: Path) -> Configured:
    text = text.replace("bind :443", f"bind 127.0.0.1:{port}")
    text = text.replace("/etc/haproxy/certificates", str(pem))
    file = folder / "haproxy.cfg"
    file.write_text(text)
    return ["-db", "-f", str(file)], {}


PROXIES: Final[dict[str, tuple[str, Callable[[str, int, Path, Path], Configured]]]] = {
    "nginx": ("nginx", _nginx),
    "caddy": ("caddyfile", _caddy),
    "haproxy": ("haproxy", _haproxy),
}


@pytest.fixture(params=PROXIES)
def program(request: pytest.FixtureRequest) -> tuple[str, str]:
    found = shutil.which(request.param)
    if found is None:
        pytest.skip(f"there is no {request.param} on this machine")
    return request.param, found


@asynccontextmanager
async def proxied(
    program: tuple[str, str], made: Upstream, folder: Path
) -> AsyncIterator[Callable[..., httpx.AsyncClient]]:
    """The example, as it stands but for addresses and certificates, in front of one server for
    both halves; yields what makes a client of one of them."""
    name, path = program
    authority = Authority(folder)
    pem = authority.certificate("127.0.0.1", "dispatcher.example.com", "hooks.example.com")
    (port,) = free_ports(1)
    language, configured = PROXIES[name]
    text = re.sub(r"127\.0\.0\.1:8[67]00", f"127.0.0.1:{made.port}", example(language))
    words, more = configured(text, port, pem, folder)
    process = _started([path, *words], {**os.environ, **more}, folder)
    trusting = ssl.create_default_context(cafile=str(authority.pem))

    def client(host: str = "dispatcher.example.com") -> httpx.AsyncClient:
        return httpx.AsyncClient(
            base_url=f"https://127.0.0.1:{port}",
            headers={"Host": host},
            verify=trusting,
            trust_env=False,
            timeout=30,
        )

    try:
        await _listening(process, client)
        yield client
    finally:
        process.kill()
        process.wait(30)


def _started(
    command: list[str], environ: dict[str, str], folder: Path
) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(command, env=environ, cwd=folder)


async def _listening(process: "subprocess.Popen[bytes]", client: Callable[..., object]) -> None:
    async with asyncio.timeout(30):
        while True:
            assert process.poll() is None, "the proxy does not take the example"
            made = client()
            assert isinstance(made, httpx.AsyncClient)
            async with made as http:
                with suppress(httpx.TransportError):
                    await http.get("/v1/ready", extensions={"sni_hostname": SNI})
                    return
            await asyncio.sleep(0.05)


SNI: Final = "dispatcher.example.com"
BYTES: Final = bytes(range(256)) + b' {"a" : 1.0}\r\n\r\n\0' + "Jürgen".encode("latin-1")


async def test_bodies_and_paths_pass_as_they_are(program: tuple[str, str], tmp_path: Path) -> None:
    """I5: byte for byte, up to the largest batch; `%2F` stays what it is."""
    async with upstream() as made, proxied(program, made, tmp_path) as client, client() as http:
        for body in (BYTES, BYTES * (OURS.batch_bytes_max // len(BYTES))):
            answer = await http.post(
                "/v1/callbacks/raw?a=%20b&c=%2F+",
                content=body,
                headers={"Content-Type": "text/plain; charset=latin-1"},
                extensions={"sni_hostname": SNI},
            )
            assert answer.status_code == 200
            head, _, passed = made.requests[-1].partition(b"\r\n\r\n")
            assert passed == body
            assert head.startswith(b"POST /v1/callbacks/raw?a=%20b&c=%2F+ HTTP/1.1\r\n")
            assert made.header("content-type") == ["text/plain; charset=latin-1"]
        await http.get("/v1/destinations/a%2Fb", extensions={"sni_hostname": SNI})
        assert made.requests[-1].startswith(b"GET /v1/destinations/a%2Fb HTTP/1.1\r\n")


async def test_who_asks_stands_at_the_right(program: tuple[str, str], tmp_path: Path) -> None:
    """Whatever the client says of itself; and that it asked over TLS."""
    async with upstream() as made, proxied(program, made, tmp_path) as client, client() as http:
        invented = {"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "http"}
        await http.get("/v1/stats", headers=invented, extensions={"sni_hostname": SNI})
    hops = ",".join(made.header("x-forwarded-for")).split(",")
    assert hops[-1].strip() == "127.0.0.1"
    assert made.header("x-forwarded-proto")[-1:] == ["https"]


async def test_what_was_sent_is_not_sent_again(program: tuple[str, str], tmp_path: Path) -> None:
    """A POST whose answer does not come has perhaps been done: 502, and nothing more."""
    async with upstream() as made, proxied(program, made, tmp_path) as client, client() as http:
        before = len(made.requests)
        made.is_answering = False
        answer = await http.post("/v1/replays", content=b"{}", extensions={"sni_hostname": SNI})
        assert answer.status_code == 502
        assert len(made.requests) == before + 1


async def test_no_offer_to_upgrade_is_passed_on(program: tuple[str, str], tmp_path: Path) -> None:
    async with upstream() as made, proxied(program, made, tmp_path) as client, client() as http:
        await http.post(
            "/v1/callbacks",
            content=b"{}",
            headers={"Connection": "Upgrade", "Upgrade": "h2c"},
            extensions={"sni_hostname": SNI},
        )
    assert made.header("upgrade") == []
    assert made.requests[-1].endswith(b"\r\n\r\n{}")


async def test_nothing_else_is_passed_on(program: tuple[str, str], tmp_path: Path) -> None:
    """Metrics, probes and admin routes stay inside, however the path is written; and each host
    leads to its own half."""
    hooks = "hooks.example.com"
    async with upstream() as made, proxied(program, made, tmp_path) as client:
        before = len(made.requests)
        async with client() as http:
            for path in ("/metrics", "/readyz", "/", "/webhooks", "/v1"):
                answer = await http.get(path, extensions={"sni_hostname": SNI})
                assert answer.status_code in (301, 308, 404), path
        async with client(hooks) as http:
            for path in ("/inbox", "/metrics", "/v1/stats"):
                answer = await http.get(path, extensions={"sni_hostname": hooks})
                assert answer.status_code == 404, path
        assert len(made.requests) == before


async def test_a_delivery_passes_with_all_its_headers(
    program: tuple[str, str], tmp_path: Path
) -> None:
    """As many and as large as a callback may bring, whatever their names."""
    hooks = "hooks.example.com"
    headers = {f"X-Own_{n}.x": "v" * 1_000 for n in range(40)}
    async with (
        upstream() as made,
        proxied(program, made, tmp_path) as client,
        client(hooks) as http,
    ):
        answer = await http.post(
            "/webhooks", content=BYTES, headers=headers, extensions={"sni_hostname": hooks}
        )
        assert answer.status_code == 200
        assert made.requests[-1].endswith(BYTES)
        assert all(made.header(re.escape(name)) for name in headers)
