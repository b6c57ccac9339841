"""What a backend does not do of what the suite asks, each with its reason: expected to fail, and reported if it does not.

The one table; docs/exceptions.md is rendered from it (`python -m e2e.flows.exceptions`). A reason names what the
kernel lacks. What is merely not there yet says so, with `is_pending`: such rows must be gone before a release.
"""

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final, NamedTuple

from e2e.flavours import mode_of

LIMIT: Final = 10
"""Rows a backend may have."""
PAGE: Final = Path(__file__).parents[2] / "docs" / "exceptions.md"
MISSING: Final = "not in this version"


class Row(NamedTuple):
    """Scenarios by `file/name`, where * stands for anything, in all settings or in one; and why they fail.

    `but` are the names of those that pass all the same. Where it `is_about_source` they do not fail: all else is as it
    must be, and each endpoint must see this node.
    """

    scenarios: str
    reason: str
    setting: str = "*"
    is_pending: bool = False
    but: tuple[str, ...] = ()
    is_about_source: bool = False

    def covers(self, file: str, scenario: str, setting: str) -> bool:
        """Whether that scenario is one of these."""
        return (
            fnmatchcase(f"{file}/{scenario}", self.scenarios)
            and fnmatchcase(setting, self.setting)
            and scenario not in self.but
        )


_BOUND: Final = (
    "IPVS takes only what is addressed to this host, so the address is bound to a device, "
    "and its other ports are refused: they would lead to whatever listens on this host"
)
_HASHED: Final = (
    "persistence of a virtual server that is found by mark leaves the port untranslated: "
    "external frontends choose by the client's address instead, and share no memory with the cluster IP"
)

_OWN: Final = (
    "the node asks an address of its own device from that very address, which no endpoint could answer: it is "
    "masqueraded also where nothing else is"
)
_REMEMBERED: Final = (
    "IPVS remembers a client for as long as it knows one of its connections, by UDP for five minutes "
    "after the last packet, and looks again once a minute"
)

TABLE: Final[Mapping[str, Sequence[Row]]] = {
    "nftables": (),
    "ipvs": (
        Row("*/other ports of the address are left alone", _BOUND),
        Row(
            "combinations/two services share a load balancer's address on different ports", _BOUND
        ),
        Row("*, the node itself", _OWN, setting="no detector"),
        Row("*, the node itself", _OWN, setting="IPv4 detector"),
        Row("combinations/source ranges, policy Local and session affinity", _HASHED),
        Row("combinations/session affinity over many endpoints that come and go", _HASHED),
        Row("session_affinity/use refreshes the memory, and rest ends it", _REMEMBERED),
        Row(
            "session_affinity/*",
            _HASHED,
            but=(
                "a client stays with its endpoint",
                "without endpoints connections are rejected",
                "use refreshes the memory, and rest ends it",
                "an endpoint reaches itself",
            ),
        ),
    ),
    "iptables": (),
    "userspace": (
        Row(
            "*",
            "what a process forwards is a connection of its own, from an address of this node",
            is_about_source=True,
        ),
        Row(
            "cluster_ip/a port that no service defines is rejected",
            "the address is one of this node: without rules its other ports lead to whatever listens on all of the "
            "node's addresses, and are refused where nobody does",
        ),
        Row(
            "protocols/*",
            "SCTP is not a stream of bytes: what a process forwarded would lose streams and the ends of messages",
            but=(
                "endpoints that differ by protocol",
                "several ports of a service lead to ports of their own",
            ),
        ),
        Row(
            "source_ranges/without endpoints who is in range is rejected, who is not is dropped",
            "who is in range is refused by the kernel, as nobody listens; nobody tells it to be silent to others",
        ),
        Row(
            "service_cidrs/what goes to an address that no service has is dropped",
            "a route that leads nowhere tells programs on the node itself so at once (EINVAL)",
        ),
    ),
}


def reason(backend: str, file: str, scenario: str, setting: str) -> str:
    """Why that scenario is expected to fail with that backend, or variant of it; nothing if it is not."""
    for row in TABLE.get(mode_of(backend), ()):
        if row.covers(file, scenario, setting) and not row.is_about_source:
            return f"{MISSING}: {row.reason}" if row.is_pending else row.reason
    return ""


def hides_source(backend: str) -> bool:
    """Whether endpoints see this node, whoever asks."""
    return any(row.is_about_source for row in TABLE.get(mode_of(backend), ()))


def permanent(backend: str, file: str, scenario: str, setting: str) -> bool:
    """Whether that backend will never do it."""
    return any(
        row.covers(file, scenario, setting) and not (row.is_pending or row.is_about_source)
        for row in TABLE.get(backend, ())
    )


def unused(names: Iterable[tuple[str, str, str]]) -> list[str]:
    """The rows that no scenario is subject to, as text; `names` are all by file, name and setting."""
    listed = list(names)
    return [
        f"{backend}: {row.scenarios} ({row.setting})"
        for backend, rows in TABLE.items()
        for row in rows
        if not any(row.covers(*name) for name in listed)
    ]


def page() -> str:
    """The documentation of the table."""
    lines = [
        "# What a mode does not do",
        "",
        "Each mode passes the whole flow suite (e2e/flows), except for what stands here. Rendered from",
        "e2e/flows/exceptions.py; a line whose scenario passes after all fails the tests.",
    ]
    for backend, rows in TABLE.items():
        lines += ["", f"## {backend}", ""]
        if not rows:
            lines.append("Nothing.")
            continue
        lines += ["| Scenarios | Settings | Reason |", "| --- | --- | --- |"]
        for row in rows:
            setting = "all" if row.setting == "*" else row.setting
            aspect = ": source addresses" if row.is_about_source else ""
            said = f"*{MISSING}*: {row.reason}" if row.is_pending else row.reason
            but = f", but for *{', '.join(row.but)}*" if row.but else ""
            lines.append(
                f"| {row.scenarios.replace('*', '…')}{aspect}{but} | {setting} | {said} |"
            )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
