"""The reference of mode iptables: the same services in kube-proxy's pattern, as text for `iptables-restore`. Pure.

A rule for each service in one chain; for each service a chain that draws lots, one rule for each endpoint; for each
endpoint a chain of two rules, of which the first masquerades what a pod sends to itself. A change of one service writes
all shared chains anew, so a rule for each service there is, and the chains of that service and its endpoints (partial
sync). Chains of endpoints that are gone are deleted some time later, which is not counted here. From some 1,000
endpoints on, kube-proxy leaves out the comments.
"""

import base64
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from bench import workload

ENDPOINTS_WITH_COMMENTS: Final = 1000
_NEW: Final = "-m conntrack --ctstate NEW"
_JUMPS: Final = {
    "filter": (
        ("INPUT", "KUBE-EXTERNAL-SERVICES", _NEW),
        ("FORWARD", "KUBE-EXTERNAL-SERVICES", _NEW),
        ("INPUT", "KUBE-NODEPORTS", ""),
        ("FORWARD", "KUBE-SERVICES", _NEW),
        ("OUTPUT", "KUBE-SERVICES", _NEW),
        ("FORWARD", "KUBE-FORWARD", ""),
        ("INPUT", "KUBE-PROXY-FIREWALL", _NEW),
        ("OUTPUT", "KUBE-PROXY-FIREWALL", _NEW),
        ("FORWARD", "KUBE-PROXY-FIREWALL", _NEW),
    ),
    "nat": (
        ("OUTPUT", "KUBE-SERVICES", ""),
        ("PREROUTING", "KUBE-SERVICES", ""),
        ("POSTROUTING", "KUBE-POSTROUTING", ""),
    ),
}
_SHARED: Final = {
    "filter": {
        "KUBE-SERVICES": (),
        "KUBE-EXTERNAL-SERVICES": (),
        "KUBE-NODEPORTS": (),
        "KUBE-PROXY-FIREWALL": (),
        "KUBE-FORWARD": (
            "-m conntrack --ctstate INVALID -j DROP",
            "-m mark --mark 0x4000/0x4000 -j ACCEPT",
            "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        ),
    },
    "nat": {
        "KUBE-NODEPORTS": (),
        "KUBE-MARK-MASQ": ("-j MARK --or-mark 0x4000",),
        "KUBE-POSTROUTING": (
            "-m mark ! --mark 0x4000/0x4000 -j RETURN",
            "-j MARK --xor-mark 0x4000",
            "-j MASQUERADE --random-fully",
        ),
    },
}
"""What is written with each change and depends on no service. By table and chain."""

Changed = Mapping[int, Sequence[int]]
"""The endpoints of services."""


class Pattern:
    """So many services; their endpoints are told with each text. One without endpoints is not foreseen."""

    def __init__(self, services: int, endpoints: int) -> None:
        self._services = services
        self._has_comments = services * endpoints <= ENDPOINTS_WITH_COMMENTS

    def sync(self, changed: Changed) -> str:
        """Return what is restored when these services have changed: of all, when everything is loaded."""
        chains, rules = self._chains_of(changed)
        services = [*map(self._dispatch, range(self._services))]
        services.append("-m addrtype --dst-type LOCAL -j KUBE-NODEPORTS")
        shared: dict[str, Sequence[str]] = {**_SHARED["nat"], "KUBE-SERVICES": services}
        return _filter() + _text("nat", [*shared, *chains], [*_lines(shared), *rules])

    def parts(self, changed: Changed, at_once: int) -> Iterator[str]:
        """Yield the own chains of services in texts of so many services: the nft flavour takes all of it at once in minutes."""
        numbers = list(changed)
        # what the chains of services lead to has to be there
        yield _text("nat", ["KUBE-MARK-MASQ"], [])
        for first in range(0, len(numbers), at_once):
            part = {number: changed[number] for number in numbers[first : first + at_once]}
            yield _text("nat", *self._chains_of(part))

    def _chains_of(self, changed: Changed) -> tuple[list[str], list[str]]:
        chains: list[str] = []
        rules: list[str] = []
        for number, endpoints in changed.items():
            own = self._own(number, endpoints)
            chains += own
            rules += _lines(own)
        return chains, rules

    def _own(self, number: int, endpoints: Sequence[int]) -> dict[str, list[str]]:
        """Return the chains of one service, with their rules."""
        targets = [f"{workload.endpoint_ip(each)}:{workload.TARGET_PORT}" for each in endpoints]
        name = _name(number)
        frontend = f"-p tcp -d {workload.cluster_ip(number)} --dport {workload.PORT}"
        masquerade = f"{frontend} ! -s {workload.CLUSTER_CIDR} -j KUBE-MARK-MASQ"
        own = {service_chain(number): [self._comment(f"{name} cluster IP") + masquerade]}
        for index, target in enumerate(targets):
            left = len(targets) - index
            lot = f"-m statistic --mode random --probability {1 / left:.10f} " * (left > 1)
            chain = endpoint_chain(number, target)
            said = self._comment(f"{name} -> {target}")
            own[service_chain(number)].append(f"{said}{lot}-j {chain}")
            about = self._comment(name)
            own[chain] = [
                f"{about}-s {target.partition(':')[0]} -j KUBE-MARK-MASQ",
                f"{about}-m tcp -p tcp -j DNAT --to-destination {target}",
            ]
        return own

    def _dispatch(self, number: int) -> str:
        frontend = f"-m tcp -p tcp -d {workload.cluster_ip(number)} --dport {workload.PORT}"
        about = self._comment(f"{_name(number)} cluster IP")
        return f"{about}{frontend} -j {service_chain(number)}"

    def _comment(self, text: str) -> str:
        return f'-m comment --comment "{text}" ' if self._has_comments else ""


def hooks() -> str:
    """Return the rules in built-in chains, which are written once; the shared chains have to be there."""
    return "".join(
        [
            _text(
                table,
                [],
                [" ".join(f"-I {hook} {match} -j {to}".split()) for hook, to, match in jumps],
            )
            for table, jumps in _JUMPS.items()
        ]
    )


def deletion(chains: Sequence[str]) -> str:
    """Return what deletes chains of endpoints that nothing leads to any more."""
    return _text("nat", chains, [f"-X {chain}" for chain in chains])


def service_chain(number: int) -> str:
    return f"KUBE-SVC-{_hash(_name(number) + 'tcp')}"


def endpoint_chain(number: int, target: str) -> str:
    return f"KUBE-SEP-{_hash(_name(number) + 'tcp' + target)}"


def rules_in(text: str) -> int:
    """Return how many rules a text has."""
    return sum([line.startswith(("-A ", "-I ")) for line in text.splitlines()])


def _filter() -> str:
    return _text("filter", [*_SHARED["filter"]], _lines(_SHARED["filter"]))


def _lines(chains: Mapping[str, Sequence[str]]) -> list[str]:
    return [f"-A {chain} {rule}" for chain, rules in chains.items() for rule in rules]


def _text(table: str, chains: Sequence[str], rules: Sequence[str]) -> str:
    heads = [f":{chain} - [0:0]" for chain in chains]
    return "\n".join([f"*{table}", *heads, *rules, "COMMIT", ""])


def _name(number: int) -> str:
    return f"namespace-{number % 50}/service-{number}:http"


def _hash(text: str) -> str:
    return base64.b32encode(hashlib.sha256(text.encode()).digest())[:16].decode()
