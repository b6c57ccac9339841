"""Whether this host can do what our rules need: each kind of set and of rule is made for real, out of the way. Shell.

That is in a network namespace which is thrown away. On legacy python-iptables does it, since a program takes milliseconds for
each commit and reads the table anew. It does not know everything (an IPv6 mask of the lowest bits), so of what it cannot do the
programs have the last word, as of everything where it is not installed. A process that may make no namespaces tries rules
in chains that nothing leads to.
"""

import errno
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from backends.iptables.model import SETS, TABLES, Table
from backends.kernel import ipset_messages, xtables_library
from backends.kernel.ipset import Ipset
from backends.kernel.ipset_objects import IpSet, SetKind
from backends.kernel.throwaway import in_throwaway_namespace
from backends.kernel.xtables import NEEDS_NET_RAW, Refused, Xtables, lacks_net_raw, lock_held
from backends.kernel.xtables_library import CHAIN, OTHER
from backends.kernel.xtables_text import Flavour
from proxy.errors import KernelError, Unsupported
from proxy.model import IPV4, Family

log = logging.getLogger(__name__)

_CLIENTS: Final = "try-clients"


class Trial(NamedTuple):
    """A kind of rule, and one of it."""

    what: str
    table: Table
    rule: str


Trials = tuple[Trial, ...]


def probe(tables: Mapping[Family, Xtables]) -> None:
    """Make one of everything, in a thread. Raises Unsupported naming the first thing that is refused, KernelError."""
    if lacks_net_raw():
        raise Unsupported("iptables", NEEDS_NET_RAW)
    plain = {family: Xtables(door.programs) for family, door in tables.items()}
    try:
        in_throwaway_namespace(lambda: try_out(plain, is_thrown_away=True))
    except KernelError as error:
        if error.errno != errno.EPERM:
            raise
        log.info(
            "rules are tried in this network namespace, since others cannot be made: %s", error
        )
        try_out(tables)


def try_out(
    tables: Mapping[Family, Xtables],
    open_ipset: Callable[[], Ipset] = Ipset,
    *,
    is_thrown_away: bool = False,
) -> None:
    """Make one of everything in the network namespace of the calling thread, then remove it. Raises as `probe` does."""
    uses_library = is_thrown_away and any(
        door.programs.version.flavour is Flavour.LEGACY for door in tables.values()
    )
    with open_ipset() as ipset:
        try:
            for family in tables:
                _try_sets(ipset, family)
            trials: Mapping[Family, Trials] = {family: TRIALS[family] for family in tables}
            if uses_library:
                trials = _left_by_the_library(trials)
            for family, door in tables.items():
                for table in TABLES:
                    _try_rules(door, table, [e for e in trials[family] if e.table == table])
        finally:
            ipset.destroy([each.name for family in tables for each in _sets(family)])


def _sets(family: Family) -> Iterator[IpSet]:
    """One set of each kind that is used."""
    for kind in SetKind:
        yield IpSet(_name(family, kind), kind, None if kind is SetKind.PORT else family)
    yield IpSet(SETS[family] + _CLIENTS, SetKind.ADDRESS, family, timeout_s=60)


def _name(family: Family, kind: SetKind) -> str:
    return f"{SETS[family]}try-{kind.partition(':')[2]}"


def _try_sets(ipset: Ipset, family: Family) -> None:
    made = list(_sets(family))
    for refusal in ipset.carry_out([ipset_messages.create(each) for each in made]):
        if refusal.errno == errno.EPERM:
            raise Unsupported("ipset", f"needs the capability NET_ADMIN ({refusal})")
        raise Unsupported(f"ipset {made[refusal.index].kind} ({family})", refusal.text)


def _left_by_the_library(trials: Mapping[Family, Trials]) -> Mapping[Family, Trials]:
    """Return what python-iptables could not do, everything if it cannot be asked."""
    if not xtables_library.is_installed():
        log.info("python-iptables is not installed: the programs are asked what this host can do")
        return trials
    rules: dict[Family, dict[str, list[str]]] = {
        family: {table: [e.rule for e in each if e.table == table] for table in TABLES}
        for family, each in trials.items()
    }
    try:
        with lock_held():
            refused = xtables_library.try_rules(rules)
    except KernelError as error:
        log.warning("%s; the programs are asked instead", error)
        return trials
    left = {
        (family, rules[family][table][each.index])
        for family, tables in refused.items()
        for table in TABLES
        for each in tables[table]
        if each.index is not None
    }
    return {
        family: tuple([trial for trial in each if (family, trial.rule) in left])
        for family, each in trials.items()
    }


def _try_rules(door: Xtables, table: Table, trials: Sequence[Trial]) -> None:
    try:
        _commit(door, table, trials)
    except Refused:
        for trial in trials:  # which one is it?
            try:
                _commit(door, table, [trial])
            except Refused as refused:
                what = f"{door.programs.stem}: {trial.what}"
                raise Unsupported(what, f"{trial.rule}: {refused.message}") from refused
        raise


def _commit(door: Xtables, table: Table, trials: Sequence[Trial]) -> None:
    if trials:
        chains = [f":{OTHER} - [0:0]", f":{CHAIN} - [0:0]"]
        door.restore(table, [*chains, *[f"-A {CHAIN} {each.rule}" for each in trials]])
        door.restore(table, [*reversed(chains), f"-X {CHAIN}", f"-X {OTHER}"])


def _trials(family: Family) -> Iterator[Trial]:
    """One rule of each kind that is in our tables."""
    is_ipv4 = family == IPV4
    low, network = ("0.0.0.1/0.0.0.3", "192.0.2.0/24") if is_ipv4 else ("::1/::3", "2001:db8::/32")
    place = "192.0.2.1:80" if is_ipv4 else "[2001:db8::1]:80"
    names = {kind: _name(family, kind) for kind in SetKind}
    clients = SETS[family] + _CLIENTS
    yield Trial("chains and goto", "nat", f"-g {OTHER}")
    yield Trial("addresses by their lowest bits", "nat", f"-d {low} -g {OTHER}")
    yield Trial("ports", "nat", f"-d {network} -p tcp --dport 80 -g {OTHER}")
    yield Trial("interfaces", "nat", f"-i veth+ -j {OTHER}")
    yield Trial("match comment", "nat", "-m comment --comment mark -j RETURN")
    yield Trial("match addrtype", "nat", f"-m addrtype --dst-type LOCAL -j {OTHER}")
    for kind, parts in _PARTS.items():
        for table in TABLES:
            what, asked = f"match set ({kind})", f"--match-set {names[kind]} {parts}"
            yield Trial(what, table, f"-m set {asked} -j RETURN")
    range_asked = f"--match-set {names[SetKind.ADDRESS_PORT_NETWORK]} dst,dst,src"
    yield Trial("match set, inverted", "nat", f"-m set ! {range_asked} -j ACCEPT")
    yield Trial("target SET", "nat", f"-j SET --add-set {clients} src --exist --timeout 60")
    yield Trial("target MARK", "nat", "-j MARK --or-mark 0x4000")
    yield Trial("target MARK", "nat", "-j MARK --xor-mark 0x4000")
    yield Trial("match mark", "nat", "-m mark ! --mark 0x4000/0x4000 -j RETURN")
    yield Trial(
        "target MASQUERADE", "nat", "-m conntrack --ctstate DNAT -j MASQUERADE --random-fully"
    )
    chance = "-m statistic --mode random --probability 0.5"
    for protocol in ("tcp", "udp", "sctp"):
        what = f"match statistic, target DNAT ({protocol})"
        yield Trial(what, "nat", f"-p {protocol} {chance} -j DNAT --to-destination {place}")
    new = "-m conntrack --ctstate NEW -m conntrack ! --ctstate DNAT"
    yield Trial("match conntrack", "filter", f"{new} -j {OTHER}")
    yield Trial("match conntrack", "filter", "-m conntrack --ctstate INVALID -j DROP")
    yield Trial("match mark", "filter", "-m mark --mark 0x4000/0x4000 -j ACCEPT")
    yield Trial("target REJECT", "filter", "-p tcp -j REJECT --reject-with tcp-reset")
    yield Trial("target REJECT", "filter", "-j REJECT")


_PARTS: Final = {
    SetKind.ADDRESS: "dst",
    SetKind.NETWORK: "dst",
    SetKind.ADDRESS_PORT: "dst,dst",
    SetKind.ADDRESS_PORT_ADDRESS: "dst,dst,src",
    SetKind.ADDRESS_PORT_NETWORK: "dst,dst,src",
    SetKind.PORT: "dst",
}
TRIALS: Final[dict[Family, Trials]] = {
    "IPv4": tuple(_trials("IPv4")),
    "IPv6": tuple(_trials("IPv6")),
}
