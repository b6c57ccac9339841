"""Collecting what is wrong with one object while the rest of it is converted.

Pure. `convert` and `frontends` note here why a part cannot be used; the result becomes the `Rejected` values
that the log, the metrics and the debug page show.
"""

from typing import Final

from proxy.model import Protocol, Rejected
from proxy.sources import wire

_PROTOCOL: Final[dict[str | None, Protocol]] = {
    None: "TCP",
    "": "TCP",
    "TCP": "TCP",
    "UDP": "UDP",
    "SCTP": "SCTP",
}
# A thousand endpoints may share one fault; nobody reads a thousand lines.
_MOST_FINDINGS: Final = 100
_LONGEST_QUOTE: Final = 80


class Findings:
    """The identity of an object and what was found wrong with it so far."""

    def __init__(self, kind: str, metadata: wire.Metadata | None, default_namespace: str) -> None:
        self.kind = kind
        self.namespace = (metadata and metadata.namespace) or default_namespace
        self.name = (metadata and metadata.name) or ""
        self._rejected: list[Rejected] = []
        self._more = 0

    def add(self, field: str, reason: str) -> None:
        """Note why `field` (its path in the object) cannot be used."""
        if len(self._rejected) < _MOST_FINDINGS:
            self._rejected.append(self._rejection(field, reason))
        else:
            self._more += 1

    def has_identity(self) -> bool:
        """Return whether the object has a namespace and a name, and note what is missing."""
        if not self.name:
            self.add("metadata.name", "missing")
        if not self.namespace:
            self.add("metadata.namespace", "missing")
        return bool(self.name and self.namespace)

    def rejected(self) -> tuple[Rejected, ...]:
        """Return everything noted so far."""
        if not self._more:
            return tuple(self._rejected)
        return (*self._rejected, self._rejection("", f"{self._more} more parts cannot be used"))

    def protocol(self, given: str | None, field: str) -> Protocol | None:
        """Return the protocol; TCP where none is given, as the API defaults it. None if there is no such protocol."""
        protocol = _PROTOCOL.get(given)
        if protocol is None:
            self.add(field, f"{quoted(given or '')} is no protocol: write TCP, UDP or SCTP")
        return protocol

    def port(self, given: int | None, field: str) -> int | None:
        """Return the port number, or None if it cannot stand for a port on the wire."""
        if given is None:
            self.add(field, "missing: write a number from 1 to 65535")
        elif not 0 < given <= 65535:
            self.add(field, f"{_short(given)} is no port: write a number from 1 to 65535")
        else:
            return given
        return None

    def choice(self, given: str | None, choices: tuple[str, ...], field: str) -> str:
        """Return the value of an enumerated field; the first choice where it is absent or unknown."""
        if given in choices:
            return given
        if given:
            self.add(field, f"{quoted(given)} is unknown: write {' or '.join(choices)}")
        return choices[0]

    def _rejection(self, field: str, reason: str) -> Rejected:
        where = f"{self.namespace}/{self.name}" if self.namespace else self.name
        return Rejected(kind=self.kind, name=where, field=field, reason=reason)


def quoted(text: str) -> str:
    """Return the text as a reason may quote it: on one line, printable and not too long."""
    return ascii(text if len(text) <= _LONGEST_QUOTE else f"{text[:_LONGEST_QUOTE]}...")


def _short(number: int) -> str:
    """Return the number, unless it is so long that Python refuses to print it."""
    return str(number) if abs(number) < 1 << 64 else "a huge number"
