"""Asking a running daemon over HTTP: one GET, one answer, and errors that say what to do. Shell.

Proxies of the environment are not used: the daemon answers to its own address only.
"""

import contextlib
import http.client
import urllib.parse
from collections.abc import Mapping
from typing import Final, NamedTuple

from proxy.errors import ConfigError, ProxyError

NOTE: Final = "Sliceproxy-Note"
"""A header with a remark beside the answer, in ASCII."""
NOTHING_HERE: Final = "nothing is served at this path"
"""The answer to what no page answers."""
_PORT: Final = 10249
HERE: Final = f"http://127.0.0.1:{_PORT}"
"""Where a daemon answers, unless it was told something else."""
_HERE_BY_IPV6: Final = f"http://[::1]:{_PORT}"
"""And where it does if the configuration's bindAddress is one of IPv6."""
_TIMEOUT_S: Final = 30.0
"""For connecting, and for each piece of the answer."""
_LONGEST_SENTENCE: Final = 500


class NobodyError(ProxyError):
    """Nothing listens where it was asked."""


class Page(NamedTuple):
    """What was answered, and a remark about it; empty for none."""

    text: str
    note: str


def ask(url: str | None, path: str, parameters: Mapping[str, str]) -> Page:
    """Return what a daemon answers; without a URL, that of this node. Raises ConfigError for a URL that is none, ProxyError for
    everything else.
    """
    if url is not None:
        return _ask(url, path, parameters)
    try:
        return _ask(HERE, path, parameters)
    except NobodyError:
        with contextlib.suppress(NobodyError):
            return _ask(_HERE_BY_IPV6, path, parameters)
        raise


def _ask(url: str, path: str, parameters: Mapping[str, str]) -> Page:
    host, port = _address(url)
    query = urllib.parse.urlencode(parameters)
    connection = http.client.HTTPConnection(host, port, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", f"{path}?{query}", headers={"Accept": "text/plain"})
        answer = connection.getresponse()
        body = answer.read()
    except ConnectionRefusedError as error:
        raise NobodyError(
            f"nothing listens at {url}: is sliceproxy running on this node?"
        ) from error
    except TimeoutError as error:
        raise ProxyError(f"no answer from {url} within {_TIMEOUT_S:.0f} s") from error
    except http.client.HTTPException as error:
        what = str(error) or type(error).__name__
        raise ProxyError(f"what answers at {url} is not sliceproxy: {what}") from error
    except OSError as error:
        raise ProxyError(f"cannot ask {url}: {error.strerror or error}") from error
    finally:
        connection.close()
    if not answer.headers.get("Server", "").startswith("sliceproxy/"):
        raise ProxyError(f"what answers at {url} is not sliceproxy (status {answer.status})")
    text = body.decode("utf-8", "replace")
    if answer.status != http.client.OK:
        sentence = text[:_LONGEST_SENTENCE].strip() or answer.reason
        if sentence == NOTHING_HERE:
            sentence = "it serves no debug pages there: ask at a loopback address, or set debug.allowNonLoopback"
        raise ProxyError(f"{url}: {sentence}")
    return Page(text, answer.headers.get(NOTE, ""))


def _address(url: str) -> tuple[str, int]:
    try:
        parts = urllib.parse.urlsplit(url if "//" in url else f"//{url}", scheme="http")
        host, port = parts.hostname, parts.port or _PORT
    except ValueError as error:
        raise ConfigError(f"--server: {url!a} is no URL: {error}") from error
    if parts.scheme != "http" or not host or parts.path.strip("/") or parts.query:
        raise ConfigError(f"--server: {url!a} is not of the form http://HOST:PORT")
    return host, port
