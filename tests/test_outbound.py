"""Requests to addresses that strangers name: what is refused, what is pinned, what is bounded."""

from __future__ import annotations

import asyncio
import gzip
import shutil
import socket
import ssl
import subprocess
import zlib
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

import anyio
import httpcore
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import OutboundFailed
from app.outbound import Fetched, Outbound, checked_headers, checked_url, open_outbound
from app.outbound.addresses import is_public
from tests.site_rig import Asked, Reply, Site, for_ever, site

MB = 1_000_000


def say(*replies: Reply) -> Any:
    """Answers one after the other, the last for ever."""
    left = list(replies)
    return lambda asked: left.pop(0) if len(left) > 1 else left[0]


@pytest.fixture
async def outbound() -> AsyncIterator[Outbound]:
    """One that may reach this machine."""
    async with open_outbound(allow_private=True) as opened:
        yield opened


async def get(outbound: Outbound, url: str, **more: Any) -> Fetched:
    return await outbound.fetch("GET", url, **{"most_bytes": MB, "seconds": 10} | more)


async def failure(outbound: Outbound, url: str, **more: Any) -> OutboundFailed:
    with pytest.raises(OutboundFailed) as caught:
        await get(outbound, url, **more)
    return caught.value


# ---- which addresses ------------------------------------------------------------------------------------------------

# fmt: off
PRIVATE_4 = [
    "0.0.0.0", "0.1.2.3", "10.0.0.1", "10.255.255.255", "100.64.0.1", "100.100.100.200", "100.127.255.255",
    "127.0.0.1", "127.9.9.9", "168.63.129.16", "169.254.0.1", "169.254.169.254", "172.16.0.1", "172.31.255.255",
    "192.0.0.192", "192.0.2.1", "192.168.1.1", "198.18.0.1", "198.19.255.255", "198.51.100.1", "203.0.113.1",
    "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255",
]
PUBLIC_4 = [
    "1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.0", "93.184.216.34", "100.63.255.255", "100.128.0.0",
    "126.255.255.255", "128.0.0.0", "169.253.255.255", "169.255.0.0", "172.15.255.255", "172.32.0.0", "192.0.1.0",
    "192.167.255.255", "192.169.0.0", "198.17.255.255", "198.20.0.0", "223.255.255.255",
]
PRIVATE_6 = [
    "::", "::1", "::2", "::127.0.0.1", "fe80::1", "fe80::1%lo", "fc00::1", "fd00:ec2::254", "ff02::1", "2001::1",
    "2001:db8::1", "2001:2::1", "64:ff9b:1::a00:1", "100::1", "3fff::1", "5f00::1", "fec0::1", "4000::1",
    "::ffff:0:127.0.0.1", "1fff:ffff::1",
]
PUBLIC_6 = [
    "2606:4700:4700::1111", "2a00:1450:4001:81b::200e", "2400::1", "2001:4860:4860::8888", "3ffe:ffff::1",
]
# fmt: on


NAT64 = 0x64_FF9B << 64


def carrying(address: IPv4Address) -> list[str]:
    number = int(address)
    return [
        f"::ffff:{address}",
        str(IPv6Address((NAT64 << 32) | number)),
        str(IPv6Address((0x2002 << 112) | (number << 80) | 0x1)),
    ]


@pytest.mark.parametrize("address", PRIVATE_4 + PRIVATE_6)
def test_an_address_that_is_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", PUBLIC_4 + PUBLIC_6)
def test_a_public_address(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("address", ["", "localhost", "127.1", "0x7f000001", "1.1.1.1.", "1.1.1.1/8", "::1]", "[::1]"])
def test_what_is_no_address_is_not_public(address: str) -> None:
    assert not is_public(address)


@given(st.ip_addresses(v=4))
def test_an_address_in_another_is_as_public_as_it_is_alone(address: IPv4Address) -> None:
    assert {is_public(form) for form in carrying(address)} == {is_public(str(address))}


@given(st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)))
def test_nothing_the_standard_library_calls_special_is_public(address: IPv4Address | IPv6Address) -> None:
    if isinstance(address, IPv6Address) and (address.ipv4_mapped or address.sixtofour or int(address) >> 32 == NAT64):
        return  # as public as the address in it, see above
    if address.is_private or address.is_multicast or address.is_reserved:
        assert not is_public(str(address))


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:{port}/",
        "http://localhost:{port}/",
        "http://0.0.0.0:{port}/",
        "http://[::1]:{port}/",
        "http://[::ffff:127.0.0.1]:{port}/",
        "http://[::ffff:7f00:1]:{port}/",
        "http://2130706433:{port}/",
        "http://0x7f.1:{port}/",
        "http://0177.0.0.1:{port}/",
        "http://127.1:{port}/",
        "http://127。0。0。1:{port}/",
        "http://LOCALHOST.:{port}/",
        "https://127.0.0.1:{port}/",
    ],
)
async def test_every_way_to_write_this_machine_is_refused(url: str) -> None:
    async with site(say(Reply(body=b"secret"))) as private, open_outbound(allow_private=False) as outbound:
        refused = await failure(outbound, url.format(port=private.port), most_bytes=MB)
        assert refused.code in ("ADDRESS_REFUSED", "UNREACHABLE")  # some of them are names that nobody has
        assert refused.code == "ADDRESS_REFUSED" or "resolved" in refused.message
        assert private.connections == 0


async def test_private_addresses_can_be_allowed(outbound: Outbound) -> None:
    async with site(say(Reply(body={"here": True}))) as private:
        fetched = await get(outbound, f"http://localhost:{private.port}/a?b=c%20d#e", headers={"X-Key": "k"})
    assert (fetched.status, fetched.body) == (200, b'{"here":true}')
    assert private.asked[0].query == {"b": "c d"}
    assert private.asked[0].headers["host"] == f"localhost:{private.port}"
    assert private.asked[0].headers["x-key"] == "k"


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.com/",
        "file:///etc/passwd",
        "gopher://example.com/",
        "//example.com/",
        "example.com",
        "",
        "http://",
        "http:///x",
        "http://user:hunter2@example.com/",
        "http://user@example.com/",
        "http://exa mple.com/",
        "http://example.com:99999/",
        "http://[::1/",
        "http://" + "a" * 5_000,
        "http://example.com/\nx",
    ],
)
def test_a_url_that_is_refused_before_anything_is_asked(url: str) -> None:
    with pytest.raises(OutboundFailed) as caught:
        checked_url(url)
    assert caught.value.code == "ADDRESS_REFUSED"
    assert "hunter2" not in caught.value.message


# ---- no gap between the check and the connection --------------------------------------------------------------------


class Network(httpcore.AsyncNetworkBackend):
    """Writes down where it was sent, and goes to the test's site wherever that was."""

    def __init__(self, to: Site) -> None:
        self.to = to
        self.dialled: list[str] = []
        self.dead: set[str] = set()
        self._real = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        self.dialled.append(host)
        if host in self.dead:
            raise httpcore.ConnectError("nobody there")
        return await self._real.connect_tcp(self.to.host, self.to.port, timeout=timeout)


class Names:
    """A name server whose answers change: each question gets the next answer."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> list[str]:
        self.asked.append(host)
        return list(self.answers.pop(0) if len(self.answers) > 1 else self.answers[0])


@asynccontextmanager
async def world(answer: Any, names: Names) -> AsyncIterator[tuple[Outbound, Network]]:
    async with site(answer) as made:
        network = Network(made)
        async with open_outbound(allow_private=False, resolve=names, network=network) as outbound:
            yield outbound, network


async def test_the_connection_goes_to_the_address_that_was_checked() -> None:
    names = Names(["93.184.216.34"], ["127.0.0.1"])
    async with world(say(Reply(body=b"ok")), names) as (outbound, network):
        assert (await get(outbound, "http://rebinding.example/")).body == b"ok"
        assert network.dialled == ["93.184.216.34"]
        assert names.asked == ["rebinding.example"]


async def test_a_new_connection_is_checked_anew() -> None:
    names = Names(["93.184.216.34"], ["127.0.0.1"])
    close = Reply(body=b"ok", headers={"connection": "close"})
    async with world(say(close), names) as (outbound, network):
        await get(outbound, "http://rebinding.example/")
        assert (await failure(outbound, "http://rebinding.example/")).code == "ADDRESS_REFUSED"
        assert network.dialled == ["93.184.216.34"]


@pytest.mark.parametrize("mixed", [["93.184.216.34", "10.0.0.1"], ["::1", "2606:4700::1111"]])
async def test_one_private_address_refuses_the_name(mixed: list[str]) -> None:
    async with world(say(Reply()), Names(mixed)) as (outbound, network):
        assert (await failure(outbound, "http://mixed.example/")).code == "ADDRESS_REFUSED"
        assert network.dialled == []


async def test_the_next_address_is_tried_when_one_is_dead() -> None:
    names = Names(["2606:4700::1111", "93.184.216.34"])
    async with world(say(Reply(body=b"ok")), names) as (outbound, network):
        network.dead = {"2606:4700::1111"}
        assert (await get(outbound, "http://two.example/")).body == b"ok"
        assert network.dialled == ["2606:4700::1111", "93.184.216.34"]
        network.dead.add("93.184.216.34")
        with pytest.raises(OutboundFailed, match="nobody there"):
            await get(outbound, "http://three.example/")


async def test_a_proxy_of_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async with site(say(Reply(body=b"proxied"))) as proxy, site(say(Reply(body=b"direct"))) as made:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "https_proxy"):
            monkeypatch.setenv(name, proxy.url)
        async with open_outbound(allow_private=True) as outbound:
            assert (await get(outbound, made.url)).body == b"direct"
        assert proxy.connections == 0


# ---- TLS ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("openssl") is None:
        pytest.skip("no openssl command to make a certificate with")
    place = tmp_path_factory.mktemp("tls") / "server.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=shop.example"
    names = ["-addext", "subjectAltName=DNS:shop.example"]
    subprocess.run(
        [*command.split(), *names, "-keyout", place, "-out", place.with_suffix(".crt")], check=True, capture_output=True
    )
    place.write_bytes(place.read_bytes() + place.with_suffix(".crt").read_bytes())
    return place


async def test_tls_names_and_verifies_the_host_not_the_address(
    certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate)
    named: list[str | None] = []
    server.sni_callback = lambda connection, name, context: named.append(name)
    trusting = ssl.create_default_context(cafile=certificate)
    async with site(say(Reply(body=b"ok")), tls=server) as made:
        network = Network(made)
        more: dict[str, Any] = {"allow_private": False, "resolve": Names(["93.184.216.34"]), "network": network}
        async with open_outbound(ssl_context=trusting, **more) as outbound:
            assert (await get(outbound, "https://shop.example/")).body == b"ok"
            assert named == ["shop.example"]
            other = await failure(outbound, "https://other.example/")
            assert other.code == "UNREACHABLE"
            assert "not valid for 'other.example'" in other.message
        with monkeypatch.context() as environment:
            environment.setenv("SSL_CERT_FILE", str(certificate))
            async with open_outbound(**more) as outbound:
                assert (await get(outbound, "https://shop.example/")).body == b"ok"
        async with open_outbound(**more) as outbound:
            assert "CERTIFICATE_VERIFY_FAILED" in (await failure(outbound, "https://shop.example/")).message


# ---- redirects ------------------------------------------------------------------------------------------------------


def moved(to: str, status: int = 302) -> Reply:
    return Reply(status, headers={"location": to})


async def test_redirects_are_followed_as_often_as_is_allowed(outbound: Outbound) -> None:
    def answer(asked: Asked) -> Reply:
        left = int(asked.path.strip("/"))
        return moved(f"./{left - 1}", 301 + (left % 2) * 6) if left else Reply(body=b"arrived")

    async with site(answer) as made:
        assert (await get(outbound, f"{made.url}/5")).body == b"arrived"
        too_often = await failure(outbound, f"{made.url}/6")
        assert (too_often.code, too_often.http_status) == ("HTTP_STATUS", 307)
        assert (await get(outbound, f"{made.url}/3", redirects=0)).status == 307


@pytest.mark.parametrize("to", ["http://10.0.0.1/", "http://inside.example/", "file:///etc/passwd", "http://u:p@x/"])
async def test_a_redirect_is_checked_like_any_address(to: str) -> None:
    async def names(host: str, port: int) -> list[str]:
        return {"outside.example": ["93.184.216.34"], "10.0.0.1": ["10.0.0.1"], "inside.example": ["fd00::1"]}[host]

    async with site(say(moved(to), Reply(body=b"secret"))) as made:
        network = Network(made)
        async with open_outbound(allow_private=False, resolve=names, network=network) as outbound:
            assert (await failure(outbound, "http://outside.example/")).code == "ADDRESS_REFUSED"
        assert len(made.asked) == 1


async def test_only_harmless_headers_go_to_another_origin(outbound: Outbound) -> None:
    mine = {"Authorization": "Bearer s", "Cookie": "c=1", "X-Api-Key": "s", "Accept": "text/x", "User-Agent": "me"}
    async with site(say(Reply(body=b"ok"))) as other:
        async with site(say(moved("/near"), moved(f"{other.url}/far"))) as made:
            assert (await get(outbound, made.url, headers=mine)).body == b"ok"
        near, far = made.asked[1].headers, other.asked[0].headers
        assert near["authorization"] == "Bearer s"
        assert near["x-api-key"] == "s"
        assert set(far) == {"host", "accept", "user-agent", "accept-encoding"}
        assert far["accept"] == "text/x"


async def test_a_post_is_not_redirected(outbound: Outbound) -> None:
    async with site(say(moved("/elsewhere", 307))) as made:
        sent = await outbound.fetch("POST", made.url, content=b"{}", most_bytes=MB, seconds=5)
        assert sent.status == 307
        assert made.paths == ["/"]
        assert made.asked[0].body == b"{}"


# ---- bounds ---------------------------------------------------------------------------------------------------------


async def test_a_body_of_exactly_the_bound_is_taken(outbound: Outbound) -> None:
    async with site(say(Reply(body=b"x" * 200_000))) as made:
        assert len((await get(outbound, made.url, most_bytes=200_000)).body) == 200_000
        assert (await failure(outbound, made.url, most_bytes=199_999)).code == "TOO_LARGE"
        cut = await get(outbound, made.url, most_bytes=199_999, cut=True)
        assert (len(cut.body), cut.cut) == (199_999, True)


@pytest.mark.parametrize("packed", [gzip.compress(b"0" * 50 * MB), zlib.compress(b"0" * 50 * MB)], ids=["gzip", "zlib"])
async def test_a_bomb_counts_what_it_unpacks_to(outbound: Outbound, packed: bytes) -> None:
    assert len(packed) < 100_000
    async with site(say(Reply(body=packed, headers={"content-encoding": "gzip"}))) as made:
        longest = 0
        async with outbound.open("GET", made.url, most_bytes=MB, seconds=10) as answer:
            with pytest.raises(OutboundFailed) as caught:
                async for piece in answer:
                    longest = max(longest, len(piece))
        assert caught.value.code == "TOO_LARGE"
        assert longest <= 65_536


async def test_others_get_their_turns_while_little_is_unpacked_to_much(outbound: Outbound) -> None:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    packed = gzip.compress(b"0" * 20 * MB)
    async with (
        site(say(Reply(body=packed, headers={"content-encoding": "gzip"}))) as made,
        anyio.create_task_group() as group,
        outbound.open("GET", made.url, most_bytes=20 * MB, seconds=10) as answer,
    ):
        group.start_soon(count)
        pieces = aiter(answer)
        await anext(pieces)
        before, read = turns, 0
        async for _ in pieces:
            read += 1
        group.cancel_scope.cancel()
    assert read > 300
    assert turns - before > 300


async def test_a_body_that_never_ends(outbound: Outbound) -> None:
    async with site(say(Reply(write=for_ever))) as made:
        assert (await failure(outbound, made.url)).code == "TOO_LARGE"


async def test_packed_bytes_that_unpack_to_nothing(outbound: Outbound) -> None:
    empty = gzip.compress(b"", mtime=0) * 1_000
    reply = Reply(headers={"content-encoding": "gzip"}, write=lambda writer: for_ever(writer, empty))
    async with site(say(reply)) as made:
        assert (await failure(outbound, made.url, most_bytes=300_000)).code == "TOO_LARGE"


@pytest.mark.parametrize("before", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nx"])
async def test_whoever_is_too_slow(outbound: Outbound, before: bytes) -> None:
    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(before)
        while await reader.read(100):
            pass
        writer.close()

    server = await asyncio.start_server(drip, "127.0.0.1", 0)
    async with server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        assert (await failure(outbound, url, seconds=0.1)).code == "TOO_SLOW"


async def test_a_body_in_drops_is_bounded_as_a_whole(outbound: Outbound) -> None:
    async with site(say(Reply(write=lambda writer: for_ever(writer, b"x", 0.01)))) as made:
        slow = await failure(outbound, made.url, seconds=0.2)
        assert (slow.code, slow.retryable) == ("TOO_SLOW", True)


async def test_a_name_server_that_does_not_answer(outbound: Outbound) -> None:
    async def never(host: str, port: int) -> list[str]:
        await asyncio.sleep(60)
        return []

    async with open_outbound(allow_private=False, resolve=never, connect_s=0.05) as hanging:
        assert (await failure(hanging, "http://slow.example/")).code == "UNREACHABLE"
        assert (await failure(hanging, "http://slow.example/", seconds=0.01)).code == "TOO_SLOW"


# ---- answers --------------------------------------------------------------------------------------------------------


async def test_what_is_packed_is_unpacked(outbound: Outbound) -> None:
    text = b"".join(b"%d," % number for number in range(100_000))
    for packed in (gzip.compress(text), gzip.compress(text[:1_000]) + gzip.compress(text[1_000:]), zlib.compress(text)):
        async with site(say(Reply(body=packed, headers={"content-encoding": "GZIP"}))) as made:
            assert (await get(outbound, made.url)).body == text
            assert made.asked[0].headers["accept-encoding"] == "gzip"


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({"content-encoding": "gzip"}, gzip.compress(b"hello" * 100, mtime=0)[:-12]),
        ({"content-encoding": "gzip"}, b"no gzip at all"),
        ({"content-encoding": "br"}, b"x"),
    ],
)
async def test_an_answer_that_cannot_be_unpacked(outbound: Outbound, headers: dict[str, str], body: bytes) -> None:
    async with site(say(Reply(body=body, headers=headers))) as made:
        assert (await failure(outbound, made.url)).code == "UNREACHABLE"


@pytest.mark.parametrize(("status", "again"), [(404, False), (500, True), (429, True), (302, False)])
async def test_a_status_is_told(outbound: Outbound, status: int, again: bool) -> None:
    async with site(say(Reply(status, body=b"why"))) as made:
        async with outbound.open("GET", f"{made.url}/?key=secret", most_bytes=MB, seconds=5) as answer:
            assert answer.status == status
            with pytest.raises(OutboundFailed) as caught:
                answer.expect_ok()
        assert (caught.value.code, caught.value.http_status) == ("HTTP_STATUS", status)
        assert caught.value.retryable is again
        assert caught.value.details == {"status": status}
        assert "secret" not in caught.value.message


async def test_nobody_there_and_whoever_hangs_up(outbound: Outbound) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = await failure(outbound, f"http://127.0.0.1:{free.getsockname()[1]}/?key=secret")
    async with site(say(Reply(0))) as made:
        gone = await failure(outbound, f"{made.url}/?key=secret")
    for failed in (nobody, gone, await failure(outbound, "http://nobody.invalid/?key=secret")):
        assert (failed.code, failed.retryable, failed.status) == ("UNREACHABLE", True, 502)
        assert "secret" not in failed.message


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "x"},
        {"content-length": "1"},
        {"Transfer-Encoding": "chunked"},
        {"a b": "c"},
        {"a": "b\r\nc: d"},
        {"": ""},
    ],
)
def test_headers_that_would_change_the_request_are_refused(headers: dict[str, str]) -> None:
    with pytest.raises(OutboundFailed) as caught:
        checked_headers(headers)
    assert caught.value.code == "HEADER_REFUSED"


async def test_leaving_early_closes_the_connection(outbound: Outbound) -> None:
    closed = asyncio.Event()

    async def write(writer: asyncio.StreamWriter) -> None:
        try:
            await for_ever(writer)
        finally:
            closed.set()

    async with site(say(Reply(write=write))) as made:
        async with outbound.open("GET", made.url, most_bytes=MB, seconds=5) as answer:
            async for _ in answer:
                break
        await asyncio.wait_for(closed.wait(), 5)


async def test_connections_are_used_again(outbound: Outbound) -> None:
    async with site(say(Reply(body=b"ok"))) as made:
        for _ in range(3):
            await get(outbound, made.url)
        assert made.connections == 1
