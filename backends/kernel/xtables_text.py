"""The texts of the iptables programs: what is given to `iptables-restore`, what it objects to, what `iptables-save` says. Pure.

One text is about one table, since each COMMIT counts by itself. A line is `:CHAIN - [0:0]`, which makes a chain or
empties one that is there, or a command as `iptables` takes it (`-A`, `-I`, `-D`, `-X`, …). Words of rules are those of
iptables-extensions(8).
"""

import re
import shlex
from collections.abc import Sequence
from enum import StrEnum
from typing import Final, NamedTuple

from proxy.model import Value


class Flavour(StrEnum):
    """Which of the kernel's two engines the programs write to. Neither sees the other's rules."""

    LEGACY = "legacy"
    NFT = "nft"


class Version(NamedTuple):
    """What `--version` says."""

    flavour: Flavour
    number: tuple[int, ...]

    def __str__(self) -> str:
        return f"{'.'.join(map(str, self.number))} ({self.flavour})"


class RefusedLine(Value, frozen=True):
    """A line that was not carried out: its place among those given, None for none in particular, and why."""

    index: int | None
    text: str


class Chain(NamedTuple):
    """A chain as it was saved. Built-in ones have a policy. Rules are in the words of the program, without their `-A CHAIN`."""

    policy: str | None
    rules: tuple[str, ...]


_VERSION: Final = re.compile(r"v([0-9]+(?:\.[0-9]+)+)(?: \((legacy|nf_tables)\))?").search
# an error begins with the program that has it, and may go on in the next line
_PROGRAM: Final = re.compile(r"^ip6?tables\S*(?: v[0-9.]+)?(?: \([a-z_]+\))?: *")
_PARSED: Final = re.compile(r"^Error occurred at line: ([0-9]+)$")
_FAILED: Final = re.compile(r"^line ([0-9]+) failed(?:: (.*))?$")
_REFUSED: Final = re.compile(r"^line ([0-9]+): (.*)$")
_ASIDE: Final = re.compile(r"^(?:Try `|#|Error occurred at line: )")
_LOCKED: Final = "holding the xtables lock"
_INCOMPATIBLE: Final = re.compile(
    r"^# Table `\S+' is incompatible|Parsing nftables rule failed$", re.MULTILINE
).search
_FIRST_LINE: Final = 2  # the table's name stands before it


def parse_version(text: str) -> Version | None:
    """Read what a program says of itself, None if it says nothing of the kind. Before 1.8 all were legacy."""
    found = _VERSION(text)
    if found is None:
        return None
    flavour = Flavour.NFT if found[2] == "nf_tables" else Flavour.LEGACY
    return Version(flavour, tuple([int(part) for part in found[1].split(".")]))


def restore_text(table: str, lines: Sequence[str]) -> str:
    """Return what `iptables-restore` reads. Raises ValueError for a line that would be two, or something else."""
    for line in lines:
        if not line.startswith((":", "-")) or "\n" in line:
            raise ValueError(f"{line!r} is no line about a chain or rule")
    return "\n".join([f"*{table}", *lines, "COMMIT", ""])


def parse_refusal(
    text: str, lines: Sequence[str], lines_before: int = 0
) -> tuple[RefusedLine, ...]:
    """Read what `iptables-restore` says when it fails, which had read other lines before; there is always one refusal.

    The index is None where it names the COMMIT, or nothing: legacy kernels refuse a table as a whole. nftables may name
    many, of which those after the first may be innocent (a loop has all rules behind it refused); everything else ends
    with the first.
    """
    said = [_PROGRAM.sub("", line) for line in text.splitlines()]
    words = " ".join([line for line in said if line and not _ASIDE.match(line)])
    first, refusals = lines_before + _FIRST_LINE, list[RefusedLine]()
    for line in said:
        if found := _REFUSED.match(line):
            refusals.append(RefusedLine(_index(found[1], lines, first), found[2]))
        elif found := _FAILED.match(line):
            refusals.append(RefusedLine(_index(found[1], lines, first), found[2] or "refused"))
        elif found := _PARSED.match(line):
            refusals.append(RefusedLine(_index(found[1], lines, first), words))
    return tuple(refusals) or (RefusedLine(None, words or "no reason given"),)


def is_locked(text: str) -> bool:
    """Tell whether a program gave up because another one held the lock."""
    return _LOCKED in text


def is_incompatible(text: str) -> bool:
    """Tell whether `iptables-nft-save` found a table that it cannot say in its words, by either of its outputs."""
    return _INCOMPATIBLE(text) is not None


def parse_save(text: str) -> dict[str, dict[str, Chain]]:
    """Read what `iptables-save` writes: the chains of each table. Rules are taken as they stand."""
    tables: dict[str, dict[str, Chain]] = {}
    policies: dict[str, str] = {}
    rules: dict[str, list[str]] = {}
    table = ""
    for line in text.splitlines():
        if line.startswith("-A "):
            chain, _, rule = line[3:].partition(" ")
            rules[chain].append(rule)
        elif line.startswith(":"):
            chain, policy, _ = line[1:].split(" ", 2)
            policies[chain], rules[chain] = policy, []
        elif line.startswith("*"):
            table, policies, rules = line[1:], {}, {}
        elif line == "COMMIT":
            tables[table] = {
                chain: Chain(None if policy == "-" else policy, tuple(rules[chain]))
                for chain, policy in policies.items()
            }
    return tables


def split_rule(rule: str) -> list[str]:
    """Return the words of a rule as it was saved, without the quotes they stand in."""
    return shlex.split(rule)


def _index(number: str, lines: Sequence[str], first: int) -> int | None:
    index = int(number) - first
    return index if 0 <= index < len(lines) else None
