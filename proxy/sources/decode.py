"""Bytes and plain values into wire structs, one object at a time.

Pure; stands between a source, which knows where bytes end, and `convert`, which knows what fields mean. The
fast path is one call of a compiled decoder that goes straight from JSON to structs. Only when it refuses is the
object looked at more closely: another kind of object, a kind that is missing, or a field of the wrong type,
which `salvage` then works around. An object never makes its neighbours fail.
"""

from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

import msgspec

from proxy.model import Rejected
from proxy.sources import advice, salvage
from proxy.sources.wire import EndpointSlice, Metadata, Node, Object, Service, ServiceCIDR

_WIRE: Final[dict[str, type[Object]]] = {
    "Service": Service,
    "EndpointSlice": EndpointSlice,
    "Node": Node,
    "ServiceCIDR": ServiceCIDR,
}
_VERSION: Final[dict[type[Object], str]] = {
    Service: "v1",
    EndpointSlice: advice.SLICE_VERSION,
    Node: "v1",
    ServiceCIDR: advice.SERVICE_CIDR_VERSION,
}
_LIST: Final = "List"


class MalformedError(ValueError):
    """The bytes are no JSON, or the document is no object. `position` counts the bytes up to the fault, if known."""

    def __init__(self, reason: str, position: int | None = None) -> None:
        super().__init__(reason)
        self.position = position


class Decoded(NamedTuple):
    """One object as read. `object` is None for kinds that are not ours and for what could not be read."""

    kind: str
    namespace: str
    name: str
    object: Object | None
    rejected: tuple[Rejected, ...] = ()


class WatchEvent(NamedTuple):
    """One line of a watch response. `type` is ADDED, MODIFIED, DELETED, BOOKMARK, ERROR or something newer.

    `ends_initial_list` marks the bookmark after which everything that existed has been sent (KEP-3157).
    `status` is the object of an ERROR event as plain values.
    """

    type: str
    decoded: Decoded
    ends_initial_list: bool = False
    status: Mapping[str, object] | None = None


class _Event(msgspec.Struct, gc=False):
    type: str
    object: Object


class _LooseEvent(msgspec.Struct, gc=False):
    type: str
    object: msgspec.Raw = msgspec.Raw(b"null")


class _List(msgspec.Struct, gc=False):
    items: list[msgspec.Raw] | None = None


class _Kind(msgspec.Struct, gc=False):
    kind: str | None = None


_decode_event = msgspec.json.Decoder(_Event).decode
_decode_loose_event = msgspec.json.Decoder(_LooseEvent).decode
_decode_list = msgspec.json.Decoder(_List).decode
_decode_kind = msgspec.json.Decoder(_Kind).decode
_decode_plain = msgspec.json.Decoder().decode
_DECODE: Final = {
    "": msgspec.json.Decoder(Object).decode,
    "Service": msgspec.json.Decoder(Service).decode,
    "EndpointSlice": msgspec.json.Decoder(EndpointSlice).decode,
    "Node": msgspec.json.Decoder(Node).decode,
    "ServiceCIDR": msgspec.json.Decoder(ServiceCIDR).decode,
}


def decode_event(line: bytes | memoryview) -> WatchEvent:
    """Return one watch event. Raises MalformedError if the line is not a JSON object with a type."""
    try:
        event = _decode_event(line)
    except msgspec.ValidationError:
        return _look_closer_at_event(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _malformed(error) from error
    return _event(event.type, _decoded(event.object))


def decode_json(data: bytes) -> Iterator[Decoded]:
    """Yield the objects of one JSON document: a single object, or each item of a list.

    Raises MalformedError if the document is no JSON object; it may do so after some items.
    """
    try:
        kind = _decode_kind(data).kind or ""
        items = _decode_list(data).items or [] if kind.endswith(_LIST) else None
    except msgspec.ValidationError as error:
        raise MalformedError(f"not an object with kind and items: {error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _malformed(error) from error
    if items is None:
        yield decode_item(data)
    else:
        default_kind = kind.removesuffix(_LIST)  # items of a typed list do not repeat their kind
        for item in items:
            yield decode_item(item, default_kind)


def decode_item(data: bytes | msgspec.Raw, default_kind: str = "") -> Decoded:
    """Return one object that stands by itself, or in a list whose items do not repeat their kind.

    Raises MalformedError for what is no JSON, not UTF-8 or nested too deeply: an item of a list has only been cut out.
    """
    try:
        try:
            return _decoded(_DECODE.get(default_kind, _DECODE[""])(data))
        except msgspec.ValidationError:
            plain = _decode_plain(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _malformed(error) from error
    return _read_one(plain, default_kind)


def read_document(document: object) -> Iterator[Decoded]:
    """Yield the objects of one document that is plain values (YAML): a single object, or each item of a list.

    Raises MalformedError if the document is not an object.
    """
    if not isinstance(document, dict):
        raise MalformedError("a document must be an object with apiVersion, kind and metadata")
    kind = document.get("kind")
    if not isinstance(kind, str) or not kind.endswith(_LIST):
        yield _read_one(document)
        return
    items = document.get("items")
    if items is None:
        return
    if not isinstance(items, list):
        raise MalformedError(f"{kind}: items must be a list")
    for item in items:
        yield _read_one(item, kind.removesuffix(_LIST))


def no_object(reason: str) -> Decoded:
    """Return what a document that is no object comes to: a finding, and nothing else."""
    return _unusable("Document", {}, "", reason)


def _look_closer_at_event(line: bytes | memoryview) -> WatchEvent:
    try:
        event = _decode_loose_event(line)
        plain = _decode_plain(event.object)
    except msgspec.ValidationError as error:
        raise MalformedError(f"not a watch event: {error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _malformed(error) from error
    if event.type == "ERROR":
        status = plain if isinstance(plain, dict) else {}
        return WatchEvent(event.type, _status(status), status=status)
    return _event(event.type, _read_one(plain))


def _event(event_type: str, decoded: Decoded) -> WatchEvent:
    if event_type != "BOOKMARK" or decoded.object is None:
        return WatchEvent(event_type, decoded)
    metadata = _metadata(decoded.object)
    annotations = metadata.annotations if metadata else None
    ends_list = annotations is not None and annotations.initial_events_end == "true"
    return WatchEvent(event_type, decoded, ends_list)


def _status(status: Mapping[str, object]) -> Decoded:
    """Return the reason that a server gives for ending a watch."""
    reason = f"{status.get('code', '?')} {status.get('reason', '')}: {status.get('message', '')}"
    return Decoded("Status", "", "", None, (_finding("Status", "", "", "", reason),))


def _read_one(value: object, default_kind: str = "") -> Decoded:
    if not isinstance(value, dict):
        return _unusable(default_kind, {}, "", "expected an object")
    kind = value.get("kind") or default_kind
    if not isinstance(kind, str):
        return _unusable("", value, "kind", "expected text")
    cls = _WIRE.get(kind)
    if cls is None:
        return _other_kind(kind, value)
    try:
        return _decoded(msgspec.convert(value, cls))
    except msgspec.ValidationError:
        return _salvaged(kind, value, cls)


def _other_kind(kind: str, value: Mapping[object, object]) -> Decoded:
    namespace, name = _identity(value)
    rejected = tuple(
        _finding(kind, namespace, name, finding.field, finding.reason)
        for finding in advice.on_kind(kind, value)
    )
    return Decoded(kind, namespace, name, None, rejected)


def _salvaged(kind: str, value: Mapping[object, object], cls: type[Object]) -> Decoded:
    obj, misfits = salvage.fit(value, cls)
    namespace, name = _identity(value)
    rejected = tuple(
        _finding(kind, namespace, name, misfit.field, misfit.reason) for misfit in misfits
    )
    if obj is None:
        return Decoded(kind, namespace, name, None, rejected)
    decoded = _decoded(obj)
    return decoded._replace(rejected=rejected + decoded.rejected)


def _decoded(obj: Object) -> Decoded:
    """Name the object, and check that it belongs to the API that its kind suggests."""
    cls = type(obj)
    metadata = _metadata(obj)
    namespace, name = "", ""
    if metadata is not None:
        namespace, name = metadata.namespace or "", metadata.name or ""
    if obj.api_version and obj.api_version != _VERSION[cls]:
        return _other_version(namespace, name, obj, obj.api_version)
    return Decoded(cls.__name__, namespace, name, obj)


def _other_version(namespace: str, name: str, obj: Object, version: str) -> Decoded:
    kind = type(obj).__name__
    verdict = advice.on_version(kind, version, _VERSION[type(obj)])
    if not verdict.is_ours:
        return Decoded(f"{kind} of {version}", namespace, name, None)
    rejected = (
        () if verdict.advice is None else (_finding(kind, namespace, name, *verdict.advice),)
    )
    return Decoded(kind, namespace, name, obj if verdict.is_readable else None, rejected)


def _unusable(kind: str, value: Mapping[object, object], field: str, reason: str) -> Decoded:
    namespace, name = _identity(value)
    return Decoded(kind, namespace, name, None, (_finding(kind, namespace, name, field, reason),))


def _identity(value: Mapping[object, object]) -> tuple[str, str]:
    """Return namespace and name of an object about which nothing else is certain."""
    metadata = value.get("metadata")
    if not isinstance(metadata, dict):
        return "", ""
    namespace, name = metadata.get("namespace"), metadata.get("name")
    return (
        namespace if isinstance(namespace, str) else "",
        name if isinstance(name, str) else "",
    )


def _metadata(obj: Object) -> Metadata | None:
    return obj.metadata


def _finding(kind: str, namespace: str, name: str, field: str, reason: str) -> Rejected:
    where = f"{namespace}/{name}" if namespace else name
    return Rejected(kind=kind, name=where, field=field, reason=reason)


def _malformed(error: Exception) -> MalformedError:
    if isinstance(error, RecursionError):
        return MalformedError("nested too deeply")
    if isinstance(error, UnicodeDecodeError):
        return MalformedError("not UTF-8")
    text = str(error)
    _, _, position = text.removesuffix(")").rpartition("(byte ")
    return MalformedError(text, int(position) if position.isdecimal() else None)
