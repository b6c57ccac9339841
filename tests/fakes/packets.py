"""What becomes of the first packet of a connection, by rules of iptables and sets as they stand: the kernel, on paper.

It knows the words that our rules use and no others. Where rules draw lots, all that can come of it is told, with chances.
"""

import ipaddress
import shlex
from collections import defaultdict
from collections.abc import Iterator, Mapping, Set
from functools import lru_cache
from typing import Final, NamedTuple

from backends.kernel.ipset_objects import PROTOCOL_NUMBERS, Member
from proxy.model import Protocol

Chains = Mapping[str, list[str]]
"""A table: rules by chain, built-in ones too."""
_FINAL: Final = {"ACCEPT", "DROP", "REJECT", "MASQUERADE"}


class Packet(NamedTuple):
    """The first packet of a connection. One that this node makes has no interface it came from."""

    source: str
    destination: str
    protocol: Protocol
    port: int
    interface: str = ""
    mark: int = 0
    is_translated: bool = False


class Fate(NamedTuple):
    """`served`: by which endpoint (`host:port`), and whether masqueraded; `passed`: left as it was."""

    kind: str
    endpoint: str = ""
    is_masqueraded: bool = False


PASSED, REFUSED, DROPPED = Fate("passed"), Fate("refused"), Fate("dropped")

Fates = dict[Fate, float]
"""All that can become of a packet, and how probable it is."""


class Host(NamedTuple):
    """A network namespace: the tables of one family, its sets by name, and the addresses that are its own."""

    nat: Chains
    filter: Chains
    sets: Mapping[str, Set[Member]]
    addresses: Set[str]

    def fates(self, packet: Packet) -> Fates:
        """Return what can become of a packet."""
        fates: defaultdict[Fate, float] = defaultdict(float)
        is_own = not packet.interface
        for each, verdict, chance in self._pass(
            self.nat, "OUTPUT" if is_own else "PREROUTING", packet
        ):
            assert verdict == "ACCEPT", "nat neither drops nor refuses"
            is_local = self._is_local(each.destination)
            hook = "OUTPUT" if is_own else "INPUT" if is_local else "FORWARD"
            for kept, then, again in self._pass(self.filter, hook, each):
                fates[self._fate(kept, then)] += chance * again
        return dict(fates)

    def _fate(self, packet: Packet, verdict: str) -> Fate:
        if verdict != "ACCEPT":
            return {"DROP": DROPPED, "REJECT": REFUSED}[verdict]
        ((last, end, chance),) = self._pass(self.nat, "POSTROUTING", packet)
        assert chance == 1
        assert not last.mark, "the mark is ours alone, and goes when it has been seen to"
        if not packet.is_translated:
            return PASSED
        host = f"[{packet.destination}]" if ":" in packet.destination else packet.destination
        return Fate("served", f"{host}:{packet.port}", end == "MASQUERADE")

    def _is_local(self, address: str) -> bool:
        return address in self.addresses or ipaddress.ip_address(address).is_loopback

    def _pass(
        self, table: Chains, hook: str, packet: Packet
    ) -> Iterator[tuple[Packet, str, float]]:
        """Yield how a packet can come out of a hook: itself, the verdict, and the chance."""
        for out, verdict, chance in self._walk(table, hook, 0, packet, 1.0):
            yield out, "ACCEPT" if verdict == "RETURN" else verdict, chance

    def _walk(
        self, table: Chains, chain: str, start: int, packet: Packet, chance: float
    ) -> Iterator[tuple[Packet, str, float]]:
        """Yield the ends of a walk from a rule of a chain on: RETURN where it comes back to the rule that jumped."""
        rules = table[chain]
        for at in range(start, len(rules)):
            rule = parse(rules[at])
            if not all(self._matches(match, packet) for match in rule.matches):
                continue
            if rule.probability < 1:
                yield from self._walk(
                    table, chain, at + 1, packet, chance * (1 - rule.probability)
                )
                chance *= rule.probability
            if rule.target in table:
                if rule.is_goto:
                    yield from self._walk(table, rule.target, 0, packet, chance)
                    return
                for out, verdict, left in self._walk(table, rule.target, 0, packet, chance):
                    if verdict == "RETURN":
                        yield from self._walk(table, chain, at + 1, out, left)
                    else:
                        yield out, verdict, left
                return
            packet, is_final = _act(rule, packet)
            if is_final:
                verdict = rule.target if rule.target in _FINAL else "ACCEPT"
                yield packet, "RETURN" if rule.target == "RETURN" else verdict, chance
                return
        yield packet, "RETURN", chance

    def _matches(self, match: "Match", packet: Packet) -> bool:
        return self._asks(match, packet) != match.is_inverted

    def _asks(self, match: "Match", packet: Packet) -> bool:  # noqa: PLR0911 (one for each word)
        value = match.value
        match match.option:
            case "-s":
                return _is_in(packet.source, value)
            case "-d":
                return _is_in(packet.destination, value)
            case "-p":
                return packet.protocol.lower() == value
            case "-i":
                stem = value.removesuffix("+")
                return (
                    packet.interface.startswith(stem)
                    if stem != value
                    else packet.interface == value
                )
            case "--dport":
                first, _, last = value.partition(":")
                return int(first) <= packet.port <= int(last or first)
            case "--src-type" | "--dst-type":
                assert value == "LOCAL"
                own = packet.source if match.option == "--src-type" else packet.destination
                return self._is_local(own)
            case "--mark":
                wanted, _, mask = value.partition("/")
                return packet.mark & int(mask, 0) == int(wanted, 0)
            case "--ctstate":
                states = {"NEW", "DNAT"} if packet.is_translated else {"NEW"}
                return bool(states & set(value.split(",")))
            case _:
                assert match.option == "--match-set", match
                return self._is_member(value, packet)

    def _is_member(self, value: str, packet: Packet) -> bool:
        name, _, directions = value.partition(" ")
        members = self.sets[name]
        place = Member(packet.destination, PROTOCOL_NUMBERS[packet.protocol], packet.port)
        if "ports-" in name:
            assert directions == "dst"
            return Member(port=packet.port) in members
        match directions:
            case "dst" if name.endswith("service-cidrs"):
                return any(_is_in(packet.destination, each.address) for each in members)
            case "src" | "dst":
                own = packet.source if directions == "src" else packet.destination
                return Member(own) in members
            case "dst,dst":
                return place in members
            case "dst,dst,src" if name.endswith("hairpin"):
                return place._replace(other=packet.source) in members
            case _:
                assert directions == "dst,dst,src", value
                return any(
                    each._replace(other="") == place and _is_in(packet.source, each.other)
                    for each in members
                )


class Match(NamedTuple):
    option: str
    value: str
    is_inverted: bool


class Rule(NamedTuple):
    matches: tuple[Match, ...]
    probability: float
    target: str
    is_goto: bool
    argument: str


@lru_cache(maxsize=200_000)
def parse(text: str) -> Rule:  # noqa: C901 (one for each word)
    """Read a rule. Raises AssertionError for words that we do not use."""
    words = iter(shlex.split(text))
    matches: list[Match] = []
    probability, target, argument = 1.0, "", ""
    is_goto = is_inverted = False
    for word in words:
        match word:
            case "!":
                is_inverted = True
                continue
            case "-m" | "--comment" | "--mode" | "--reject-with" | "--timeout":
                next(words)
            case "--random-fully" | "--exist":
                pass
            case "--probability":
                probability = float(next(words))
            case "-j" | "-g":
                target, is_goto = next(words), word == "-g"
            case "--to-destination":
                argument = next(words)
            case "--or-mark" | "--xor-mark":
                argument = f"{word} {next(words)}"
            case "--set-xmark":  # how both are saved
                bit, _, mask = next(words).partition("/")
                argument = f"{'--or-mark' if int(mask, 0) else '--xor-mark'} {bit}"
            case "--match-set" | "--add-set":
                name = f"{next(words)} {next(words)}"
                if word == "--match-set":
                    matches.append(Match(word, name, is_inverted))
            case _:
                known = {
                    "-s",
                    "-d",
                    "-p",
                    "-i",
                    "--dport",
                    "--src-type",
                    "--dst-type",
                    "--mark",
                    "--ctstate",
                }
                assert word in known, text
                matches.append(Match(word, next(words), is_inverted))
        is_inverted = False
    return Rule(tuple(matches), probability, target, is_goto, argument)


def _act(rule: Rule, packet: Packet) -> tuple[Packet, bool]:
    """Return the packet after a target that is no chain, and whether its walk ends there."""
    match rule.target:
        case "" | "SET":
            return packet, False
        case "MARK":
            option, value = rule.argument.split()
            bit = int(value, 0)
            mark = packet.mark | bit if option == "--or-mark" else packet.mark ^ bit
            return packet._replace(mark=mark), False
        case "DNAT":
            host, _, port = rule.argument.rpartition(":")
            destination = host.strip("[]")
            return packet._replace(
                destination=destination, port=int(port), is_translated=True
            ), True
        case target:
            assert target in _FINAL | {"RETURN"}, rule
            return packet, True


@lru_cache(maxsize=100_000)
def _is_in(address: str, network: str) -> bool:
    """Whether an address is in a range, whose mask may be of any form."""
    base, _, mask = network.partition("/")
    found, wanted = ipaddress.ip_address(address), ipaddress.ip_address(base)
    if found.version != wanted.version:
        return False
    if not mask:
        return found == wanted
    width = found.max_prefixlen
    bits = (
        int(ipaddress.ip_address(mask))
        if not mask.isdecimal()
        else (1 << width) - (1 << width - int(mask))
    )
    return int(found) & bits == int(wanted)
