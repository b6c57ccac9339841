"""HTTP applications that answer GET and nothing else, and say in one sentence why they refuse. Shell.

What is served here must not be read by a web page in somebody's browser. A page of another site cannot read the
answers; but it may point a name of its own at this address, and then it asks with that name in the Host header (DNS
rebinding). So where only this host shall ask, a Host header with a name that could be anybody's is refused: with 403
and not with 421 (Misdirected Request), which invites the client to try again over another connection.
"""

import ipaddress
import re
import urllib.parse
from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import hdrs, web

from proxy import __version__
from proxy.errors import ProxyError
from proxy.server.client import NOTHING_HERE

MAX_TARGET: Final = 2048
"""Characters in path and query together; every name that can be asked for is far shorter."""
SERVER: Final = f"sliceproxy/{__version__}"
HEADERS: Final = {
    "Server": SERVER,
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_LOCAL_NAMES: Final = frozenset({"localhost", "ip6-localhost"})
_HOST: Final = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^:\[\]]*))(?::[0-9]{1,5})?")
_BY_ITSELF: Final = re.compile(r"[0-9]{3}: [A-Za-z ]*")
"""What the HTTP library says where nobody has given a text."""
_WORDS: Final = {
    400: "this is no request that can be understood",
    404: NOTHING_HERE,
    405: "only GET is answered here",
}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def application(*, is_local_only: bool) -> web.Application:
    """Make an application without routes. `is_local_only`: it answers to addresses and local names only."""

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            check(request, is_local_only=is_local_only)
            return await handler(request)
        except web.HTTPRedirection:
            raise
        except web.HTTPException as refusal:
            return _refusal(refusal)
        except ProxyError as error:
            return web.Response(status=503, text=f"{error}\n")

    app = web.Application(middlewares=[guard])
    app.on_response_prepare.append(_set_headers)
    return app


def check(request: web.Request, *, is_local_only: bool) -> None:
    """Raise an HTTPException for what is refused whatever is asked for."""
    if is_local_only:
        require_local_host(request)
    if request.method != hdrs.METH_GET:
        raise web.HTTPMethodNotAllowed(
            request.method, [hdrs.METH_GET], text="only GET is answered here\n"
        )
    target = request.raw_path
    if len(target) > MAX_TARGET:
        raise web.HTTPRequestURITooLong(
            text=f"path and query may have {MAX_TARGET} characters together, not {len(target)}\n"
        )
    if not is_plain_path(target.partition("?")[0]):
        raise web.HTTPBadRequest(
            text="the path may hold neither '.' and '..' as a part nor control characters or '\\'\n"
        )


def came_to_loopback(request: web.Request) -> bool:
    """Whether a request was sent to an address that only this host can reach, wherever else is listened."""
    name = request.transport.get_extra_info("sockname") if request.transport is not None else None
    if not name:
        return False
    address = ipaddress.ip_address(name[0])
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def require_local_host(request: web.Request) -> None:
    """Raise HTTPForbidden unless every name the request gives this host is an address or a local name."""
    hosts = request.headers.getall(hdrs.HOST, [""])
    scheme, has_scheme, rest = request.raw_path.partition("://")
    if (
        has_scheme and scheme.isalpha()
    ):  # `GET http://name/path`: that name counts besides the header
        hosts = [*hosts, re.split("[/?#]", rest, maxsplit=1)[0]]
    if not all(map(is_local_host, hosts)):
        raise web.HTTPForbidden(
            text="this is answered only where the Host header is an address or localhost\n"
        )


def is_local_host(header: str) -> bool:
    """Whether a Host header names an address, or this host by its fixed names; other names could be anybody's."""
    match = _HOST.fullmatch(header)
    host = (match[1] or match[2]) if match else header
    if host.lower() in _LOCAL_NAMES:
        return True
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def is_plain_path(path: str) -> bool:
    """Whether a path leads down only, however often it is decoded, and holds nothing that a terminal would obey."""
    while True:
        parts = path.split("/")
        if "." in parts or ".." in parts or "\\" in path:
            return False
        if any(ord(character) < 32 or ord(character) == 127 for character in path):
            return False
        decoded = urllib.parse.unquote(path)
        if decoded == path:
            return True
        path = decoded


def _refusal(refusal: web.HTTPException) -> web.Response:
    """Return a refusal as plain text in our words, with the headers that belong to it."""
    text = refusal.text or ""
    if not text or _BY_ITSELF.fullmatch(text):
        text = _WORDS.get(refusal.status, refusal.reason) + "\n"
    headers = {hdrs.ALLOW: refusal.headers[hdrs.ALLOW]} if hdrs.ALLOW in refusal.headers else {}
    return web.Response(status=refusal.status, text=text, headers=headers)


async def _set_headers(_request: web.Request, response: web.StreamResponse) -> None:
    for name, value in HEADERS.items():
        if name == "Server":
            response.headers[name] = value
        else:
            response.headers.setdefault(name, value)
