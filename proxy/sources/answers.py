"""What an API server answers besides single objects: pages of a list, and a Status that says what went wrong.

Pure; stands beside `decode`, on which it leaves the objects themselves. A page is cut into its objects without
building any of them, so that whoever asked can decode them a few at a time.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple

import msgspec

from proxy.sources.decode import MalformedError

_LONGEST_MESSAGE: Final = 300


class Status(NamedTuple):
    """Why the server refused a request or ended a watch. Code 0 and empty text for what it did not say."""

    code: int
    reason: str
    message: str
    retry_after_s: float
    is_too_large: bool
    """The server has not come as far as the version that was asked for."""


class ListPage(NamedTuple):
    """One page of a list. `token` asks for the next one and is empty on the last."""

    resource_version: str
    token: str
    items: list[msgspec.Raw]


class _Metadata(msgspec.Struct, gc=False, rename="camel"):
    resource_version: str = ""
    token: str | None = msgspec.field(default=None, name="continue")


class _Page(msgspec.Struct, gc=False):
    kind: str
    metadata: _Metadata
    items: list[msgspec.Raw] | None = None


class _Cause(msgspec.Struct, gc=False):
    reason: str = ""
    message: str = ""


class _Details(msgspec.Struct, gc=False, rename="camel"):
    retry_after_seconds: float | None = None
    causes: list[_Cause] | None = None


class _Status(msgspec.Struct, gc=False):
    code: int | None = None
    reason: str | None = None
    message: str | None = None
    details: _Details | None = None


_decode_page = msgspec.json.Decoder(_Page).decode
_decode_status = msgspec.json.Decoder(_Status).decode


def decode_page(body: bytes | bytearray, kind: str) -> ListPage:
    """Return a page of objects of this kind. Raises MalformedError if the body is anything else."""
    try:
        page = _decode_page(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedError(f"no list: {error}") from error
    if page.kind != f"{kind}List":
        raise MalformedError(f"no list of {kind} but {page.kind[:80]!a}")
    return ListPage(page.metadata.resource_version, page.metadata.token or "", page.items or [])


def decode_status(body: bytes | bytearray, code: int) -> Status:
    """Return what the body of a refusal says. Never fails: proxies in between answer with pages of HTML."""
    try:
        return _status(_decode_status(body), code)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        lines = body.decode("utf-8", "replace").split("\n")
        text = next((line.strip() for line in lines if line.strip()), "")
        return Status(code, "", _shortened(text), 0.0, is_too_large=False)


def read_status(value: Mapping[str, object]) -> Status:
    """Return what the object of an ERROR event says."""
    try:
        return _status(msgspec.convert(value, _Status), 0)
    except msgspec.ValidationError:
        return Status(0, "", _shortened(str(value)), 0.0, is_too_large=False)


def _status(given: _Status, code: int) -> Status:
    details = given.details or _Details()
    message = given.message or ""
    # The cause is said since Kubernetes 1.18, and in words only before that.
    is_too_large = "too large resource version" in message.lower() or any(
        cause.reason == "ResourceVersionTooLarge" for cause in details.causes or ()
    )
    return Status(
        code=code or given.code or 0,
        reason=given.reason or "",
        message=_shortened(message),
        retry_after_s=max(0.0, details.retry_after_seconds or 0.0),
        is_too_large=is_too_large,
    )


def _shortened(text: str) -> str:
    text = " ".join(text.split())
    text = text if len(text) <= _LONGEST_MESSAGE else f"{text[:_LONGEST_MESSAGE]}..."
    return "".join(letter if letter.isprintable() else "?" for letter in text)
