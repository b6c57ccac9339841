"""What is refused whatever is asked for, on the wire: clients would tidy up what is sent here."""

import asyncio
from types import SimpleNamespace

import pytest
from aiohttp import web

from proxy.errors import KernelError
from proxy.server import guard
from tests.unit.proxy.server.serving_debug import listening

SECRET = "what only this host may read"


async def _page(_request: web.Request) -> web.Response:
    return web.Response(text=SECRET)


async def _broken(_request: web.Request) -> web.Response:
    raise RuntimeError("an internal matter")


async def _unreadable(_request: web.Request) -> web.Response:
    raise KernelError("dump", 105, "no buffer space")


def ask(request: bytes, *, is_local_only: bool = True) -> tuple[int, dict[str, str], str]:
    """Send bytes as they are; return status, headers (names in lower case) and body."""

    async def main() -> bytes:
        app = guard.application(is_local_only=is_local_only)
        app.router.add_get("/debug/{name:.*}", _page, allow_head=False)
        app.router.add_get("/broken", _broken)
        app.router.add_get("/unreadable", _unreadable)
        async with listening(app) as url:
            port = int(url.rpartition(":")[2])
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(request)
            await writer.drain()
            try:
                async with asyncio.timeout(60):
                    return await reader.read()
            finally:
                writer.close()
                await writer.wait_closed()

    head, _, body = asyncio.run(main()).partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return int(first.split()[1]), headers, body.decode()


def request(
    target: str = "/debug/x", method: str = "GET", host: str | None = "127.0.0.1"
) -> bytes:
    named = "" if host is None else f"Host: {host}\r\n"
    return f"{method} {target} HTTP/1.1\r\n{named}Connection: close\r\n\r\n".encode()


def is_one_sentence(text: str) -> bool:
    return text.count("\n") == 1 and text.endswith("\n") and len(text) < 200


@pytest.mark.parametrize(
    "header",
    [
        "127.0.0.1",
        "127.0.0.1:10249",
        "localhost:10249",
        "LocalHost",
        "[::1]:10249",
        "::1",
        "10.0.0.7:10249",
    ],
)
def test_a_host_header_with_an_address_or_a_local_name_is_accepted(header: str) -> None:
    assert guard.is_local_host(header)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "evil.example",
        "evil.example:10249",
        "localhost.evil.example",
        "localhost.",
        "127.0.0.1.nip.io",
        "127.0.0.1@evil.example",
        "evil.example#127.0.0.1",
        "localhost:10249:evil.example",
        "[::1",
        "2130706433",
        "0x7f.1",
    ],
)
def test_a_foreign_host_header_is_refused(header: str) -> None:
    assert not guard.is_local_host(header)


class To:
    """A transport whose connection came to an address."""

    def __init__(self, *name: object) -> None:
        self._name = name

    def get_extra_info(self, _: str) -> object:
        return self._name


@pytest.mark.parametrize(
    ("transport", "is_so"),
    [
        (To("127.0.0.1", 80), True),
        (To("::1", 80, 0, 0), True),
        (To("::ffff:127.0.0.1", 80, 0, 0), True),
        (To("192.0.2.1", 80), False),
        (To("::ffff:192.0.2.1", 80, 0, 0), False),
        (To("fe80::1%eth0", 80, 0, 2), False),
        (To(), False),
        (None, False),
    ],
)
def test_what_came_to_loopback_can_come_from_this_host_only(
    transport: object, is_so: bool
) -> None:
    assert guard.came_to_loopback(SimpleNamespace(transport=transport)) is is_so  # type: ignore[arg-type] # all it looks at


def test_an_answer_forbids_the_browser_everything_it_is_not_for() -> None:
    status, headers, body = ask(request())

    assert (status, body) == (200, SECRET)
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"
    assert headers["content-security-policy"].startswith("default-src 'none';")
    assert headers["server"].startswith("sliceproxy/")


@pytest.mark.parametrize("host", ["evil.example", "evil.example:10249", None, ""])
def test_a_request_under_a_foreign_name_is_forbidden(host: str | None) -> None:
    status, headers, body = ask(request(host=host))

    assert status in (403, 400)
    assert status == 403 or not host
    assert SECRET not in body
    assert headers["content-type"].startswith("text/plain")


def test_a_foreign_name_beside_a_local_one_is_forbidden() -> None:
    both = b"GET /debug/x HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\nConnection: close\r\n\r\n"
    absolute = request("http://evil.example/debug/x", host="localhost")

    for raw in (both, absolute):
        status, _, body = ask(raw)
        assert status in (400, 403)
        assert SECRET not in body


def test_any_name_is_served_where_not_only_this_host_shall_ask() -> None:
    assert ask(request(host="node-7.example"), is_local_only=False)[0] == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "HEAD", "OPTIONS", "TRACE", "PATCH"])
def test_only_get_is_answered(method: str) -> None:
    status, headers, body = ask(request(method=method))

    assert (status, headers["allow"]) == (405, "GET")
    assert is_one_sentence(body) or method == "HEAD"


def test_a_post_with_a_body_is_refused_before_the_body_is_read() -> None:
    raw = (
        b"POST /debug/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n"
        b"Connection: close\r\n\r\nhello"
    )

    assert ask(raw)[0] == 405


@pytest.mark.parametrize(
    "target",
    [
        "/debug/../etc/passwd",
        "/debug/../../../../etc/passwd",
        "/debug/..",
        "/debug/./x",
        "/debug/%2e%2e/%2e%2e/etc/passwd",
        "/debug/%2E%2E%2Fetc%2Fpasswd",
        "/debug/..%2fetc",
        "/debug/%252e%252e/etc",
        "/debug/%25252e%25252e%25252fetc",
        "/debug/..%5cetc",
        "/debug/%00",
        "/debug/x%0d%0aSet-Cookie:%20a=b",
        "/debug/x%7f",
    ],
)
def test_a_path_that_leads_elsewhere_is_refused(target: str) -> None:
    status, headers, body = ask(request(target))

    assert status == 400
    assert is_one_sentence(body)
    assert "set-cookie" not in headers


def test_dots_within_a_name_are_no_matter() -> None:
    assert ask(request("/debug/a..b/.../x.y"))[0] == 200
    assert ask(request("/debug/x?q=../.."))[0] == 200


@pytest.mark.parametrize("length", [guard.MAX_TARGET + 1, 10_000, 60_000])
def test_a_long_query_or_path_is_refused(length: int) -> None:
    for start in ("/debug/x?q=", "/debug/"):
        status, _, body = ask(request(start + "a" * (length - len(start))))

        assert status == 414
        assert str(length) in body
        assert is_one_sentence(body)


def test_the_longest_query_allowed_is_answered() -> None:
    assert ask(request("/debug/x?q=".ljust(guard.MAX_TARGET, "a")))[0] == 200


def test_what_is_longer_than_any_buffer_is_refused_too() -> None:
    status, _, body = ask(request("/debug/x?q=" + "a" * 200_000))

    assert 400 <= status < 500
    assert SECRET not in body


@pytest.mark.parametrize(
    "raw", [b"\x16\x03\x01\x00\xa5\r\n\r\n", b"GET\r\n\r\n", b"hello\r\n\r\n"]
)
def test_what_is_no_http_is_refused_as_plain_text(raw: bytes) -> None:
    status, headers, body = ask(raw)

    assert status == 400
    assert headers["content-type"].startswith("text/plain")
    assert "Traceback" not in body


def test_nothing_at_a_path_is_said_in_a_sentence() -> None:
    assert ask(request("/nothing"))[::2] == (404, "nothing is served at this path\n")
    assert ask(request("*"))[0] in (400, 404)


@pytest.mark.filterwarnings("default")
def test_a_mistake_of_ours_shows_no_traceback(caplog: pytest.LogCaptureFixture) -> None:
    status, headers, body = ask(request("/broken"))

    assert status == 500
    assert "internal matter" not in body
    assert "Traceback" not in body
    assert headers["x-content-type-options"] == "nosniff"
    assert "internal matter" in caplog.text


def test_what_cannot_be_had_now_is_said_in_its_own_words() -> None:
    assert ask(request("/unreadable"))[::2] == (503, "dump: no buffer space (errno 105)\n")
