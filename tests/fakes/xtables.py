"""The tables of iptables, as the programs change and show them: text in, text out.

It stands behind `Xtables`, in place of the process, so what reads the words of the programs is the code of production. It
refuses what they and the kernel refuse, in the words of the flavour, and names the line where that flavour does.
"""

import itertools
import shlex
import subprocess
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Final

from backends.kernel.xtables import Programs, Xtables
from backends.kernel.xtables_fed import Ended
from backends.kernel.xtables_text import Flavour, Version
from proxy.model import Family

BUILT_IN: Final = {
    "nat": ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"),
    "filter": ("INPUT", "FORWARD", "OUTPUT"),
    "mangle": ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"),
}
_TARGETS: Final = {
    *("ACCEPT", "DROP", "RETURN", "DNAT", "NETMAP", "MASQUERADE", "MARK", "REJECT", "SET")
}
_STEMS: Final[dict[Family, str]] = {"IPv4": "iptables", "IPv6": "ip6tables"}

Key = tuple[Flavour, Family, str]
"""A table of one engine."""


class _RefusedError(Exception):
    """A line was not taken. `at` is the line the program names, None for the COMMIT."""

    def __init__(self, why: str, at: int | None) -> None:
        super().__init__(why)
        self.at = at


class _Table:
    """Chains with their rules, and how many rules lead to each chain or name each set."""

    def __init__(self, chains: Iterable[str]) -> None:
        self.chains: dict[str, list[str]] = {name: [] for name in chains}
        self.named: Counter[str] = Counter()


class _Draft:
    """A table as it will be when all lines are taken."""

    def __init__(self, table: _Table) -> None:
        self._table = table
        self._changed: dict[str, list[str] | None] = {}
        self._named: Counter[str] = Counter()

    def find(self, chain: str) -> list[str] | None:
        if chain in self._changed:
            return self._changed[chain]
        return self._table.chains.get(chain)

    def put(self, chain: str, rules: list[str] | None) -> None:
        for sign, each in ((-1, self.find(chain)), (1, rules)):
            for rule in each or ():
                for name in _names(rule):
                    self._named[name] += sign
        self._changed[chain] = rules

    def count(self, name: str) -> int:
        return self._table.named[name] + self._named[name]

    def commit(self) -> Counter[str]:
        """Carry it out; return by how much names are used more often."""
        for chain, rules in self._changed.items():
            if rules is None:
                self._table.chains.pop(chain, None)
            else:
                self._table.chains[chain] = rules
        for name, more in self._named.items():
            self._table.named[name] += more
        return self._named


class XtablesKernel:
    """All tables of both engines. Sets are somewhere else: `has_set` tells which there are; `uses` counts rules that name one.

    `calls` are the texts given to restore; `only_nft` are tables in which somebody has a rule that only `nft` can list.
    """

    def __init__(
        self,
        has_set: Callable[[str], bool] = lambda _: True,
        uses: dict[str, int] | None = None,
    ) -> None:
        self._has_set = has_set
        self._uses = {} if uses is None else uses
        self._tables: dict[Key, _Table] = {}
        self.generation = 1
        self.calls: list[str] = []
        self.only_nft: set[tuple[Family, str]] = set()

    def door(self, flavour: Flavour, family: Family) -> "FakeXtables":
        return FakeXtables(self, programs(flavour, family))

    def chains(self, flavour: Flavour, family: Family, table: str) -> dict[str, list[str]]:
        """Return the chains of a table, built-in ones first."""
        found = self._tables.get((flavour, family, table))
        return found.chains if found is not None else _Table(BUILT_IN[table]).chains

    def restore(self, flavour: Flavour, family: Family, text: str) -> str:
        """Carry out a text; return what is written to the standard error, nothing if all went well."""
        self.calls.append(text)
        name, *lines, commit, empty = text.split("\n")
        assert (name[0], commit, empty) == ("*", "COMMIT", "")
        table = name[1:]
        if table not in BUILT_IN:
            return f"{_STEMS[family]}-restore: can't initialize table '{table}'\n"
        draft = _Draft(self._tables.setdefault((flavour, family, table), _Table(BUILT_IN[table])))
        is_listed = flavour is Flavour.LEGACY or (family, table) not in self.only_nft
        if not is_listed and any(line.startswith("-D ") for line in lines):
            return (
                f"{_STEMS[family]}-nft-restore v1.8.9 (nf_tables): Parsing nftables rule failed\n"
            )
        try:
            for at, line in enumerate(lines):
                self._take(draft, line, at, flavour, table)
            _check(draft, lines, flavour)
        except _RefusedError as refused:
            at = len(lines) if refused.at is None else refused.at
            if flavour is Flavour.LEGACY:
                return f"{_STEMS[family]}-restore: line {at + 2} failed\n"
            return f"{_STEMS[family]}-nft-restore v1.8.9 (nf_tables): \nline {at + 2}: {refused}\n"
        for used, more in draft.commit().items():
            self._uses[used] = self._uses.get(used, 0) + more
        self.generation += flavour is Flavour.NFT
        return ""

    def remove(self, of: Programs, table: str, chain: str, rules: Iterable[str]) -> None:
        """Remove rules as the kernel does when it is told without the programs, which look at each first."""
        draft = _Draft(self._tables[of.version.flavour, of.family, table])
        left = list(draft.find(chain) or ())
        for rule in rules:
            left.remove(rule)
        draft.put(chain, left)
        for used, more in draft.commit().items():
            self._uses[used] = self._uses.get(used, 0) + more
        self.generation += 1

    def save(self, flavour: Flavour, family: Family, table: str) -> str:
        if flavour is Flavour.NFT and (family, table) in self.only_nft:
            return f"# Table `{table}' is incompatible, use 'nft' tool.\n"
        chains = self.chains(flavour, family, table)
        heads = [
            f":{each} {'ACCEPT' if each in BUILT_IN[table] else '-'} [0:0]" for each in chains
        ]
        rules = [f"-A {chain} {rule}" for chain, found in chains.items() for rule in found]
        return "\n".join([f"*{table}", *heads, *rules, "COMMIT", ""])

    def entries(self, flavour: Flavour, family: Family, table: str) -> int:
        """How many entries a table has: each chain has two besides its rules."""
        chains = self.chains(flavour, family, table)
        return sum([len(rules) + 2 for rules in chains.values()])

    def has(self, flavour: Flavour, family: Family, table: str) -> bool:
        return (flavour, family, table) in self._tables

    def _take(self, draft: _Draft, line: str, at: int, flavour: Flavour, table: str) -> None:
        if line.startswith(":"):
            chain = line[1:].split(maxsplit=1)[0]
            _check_length(chain, at)
            if chain not in BUILT_IN[table]:
                draft.put(chain, [])
            return
        command, chain, rule = (*line.split(" ", 2), "")[:3]
        rules = draft.find(chain)
        if rules is None:
            raise _RefusedError(f"Chain '{chain}' does not exist", at)
        match command:
            case "-A":
                self._judge(draft, rule, at, flavour, table)
                draft.put(chain, [*rules, rule])
            case "-I":
                number, _, rest = rule.partition(" ")
                place, rule = (int(number) - 1, rest) if number.isdigit() else (0, rule)
                self._judge(draft, rule, at, flavour, table)
                draft.put(chain, [*rules[:place], rule, *rules[place:]])
            case "-D":
                draft.put(chain, _without(rules, rule, at))
            case "-F":
                draft.put(chain, [])
            case "-X":
                if chain in BUILT_IN[table] or rules or draft.count(chain):
                    raise _RefusedError("CHAIN_DEL failed (Device or resource busy)", at)
                draft.put(chain, None)
            case _:
                raise AssertionError(line)

    def _judge(self, draft: _Draft, rule: str, at: int, flavour: Flavour, table: str) -> None:
        target, sets = _parse(rule)
        for name in sets:
            if not self._has_set(name):
                raise _RefusedError(f"Set {name} doesn't exist.", at)
        is_legacy = flavour is Flavour.LEGACY
        if target and target not in _TARGETS and draft.find(target) is None:
            raise _RefusedError(f"Couldn't load target `{target}'", at if is_legacy else None)
        if target == "REJECT" and table != "filter":
            why = "RULE_APPEND failed (Invalid argument)"
            raise _RefusedError(why, None if is_legacy else at)
        if "--map-set" in rule and table != "mangle":
            raise _RefusedError("RULE_APPEND failed (Invalid argument)", None if is_legacy else at)
        if target == "DROP" and table == "nat":
            raise _RefusedError('The "nat" table is not intended for filtering.', at)


def _check_length(chain: str, at: int) -> None:
    if len(chain) > 28:  # XT_EXTENSION_MAXNAMELEN
        raise _RefusedError(f"chain name `{chain}' too long (must be under 29 chars)", at)


def _without(rules: list[str], rule: str, at: int) -> list[str]:
    wanted = shlex.split(rule)
    for place, found in enumerate(rules):
        if shlex.split(found) == wanted:
            return [*rules[:place], *rules[place + 1 :]]
    raise _RefusedError("Bad rule (does a matching rule exist in that chain?).", at)


def _check(draft: _Draft, lines: Sequence[str], flavour: Flavour) -> None:
    """Look at the table as it would be: no destination is changed but where a packet comes in or is made."""
    for start in ("INPUT", "FORWARD", "POSTROUTING"):
        reached, pending = set[str](), [start]
        while pending:
            chain = pending.pop()
            for rule in draft.find(chain) or ():
                target, _ = _parse(rule)
                if target == "DNAT":
                    # nftables names the line that brought it in; if that is another than the translation, its own
                    culprits = [
                        at for at, line in enumerate(lines) if line.split()[1:2] == [chain]
                    ]
                    is_named = flavour is Flavour.NFT and culprits
                    why = "RULE_APPEND failed (Invalid argument)"
                    raise _RefusedError(why, culprits[0] if is_named else None)
                if target not in reached and draft.find(target) is not None:
                    reached.add(target)
                    pending.append(target)


class FakeXtables(Xtables):
    """The door to a fake. A test may have the next calls of restore end as it says, before or after they were carried out.

    `ends` are taken one after the other: what to do with a call, which is given what carries it out.
    """

    def __init__(self, kernel: XtablesKernel, of: Programs) -> None:
        super().__init__(of)
        self._kernel = kernel
        self.ends: list[Callable[[Callable[[], str]], tuple[int, str]]] = []

    def _has(self, table: str) -> bool:
        flavour = self.programs.version.flavour
        return flavour is Flavour.NFT or self._kernel.has(flavour, self.programs.family, table)

    def chain_names(self, table: str) -> list[str]:
        return list(
            self._kernel.chains(self.programs.version.flavour, self.programs.family, table)
        )

    def has_comment(self, table: str, chain: str, comment: str) -> bool:
        return bool(self._find_commented(table, chain, comment))

    def remove_commented(self, table: str, chain: str, comment: str) -> int:
        found = self._find_commented(table, chain, comment)
        self._kernel.remove(self.programs, table, chain, found)
        return len(found)

    def _find_commented(self, table: str, chain: str, comment: str) -> list[str]:
        rules = self._kernel.chains(self.programs.version.flavour, self.programs.family, table)
        return [rule for rule in rules.get(chain, ()) if comment in shlex.split(rule)]

    def _run(
        self, request: str, argv: Sequence[str], stdin: str, limit_s: float
    ) -> subprocess.CompletedProcess[str]:
        flavour, family = self.programs.version.flavour, self.programs.family
        if argv[0].endswith("-save"):
            text = self._kernel.save(flavour, family, argv[-1])
            return subprocess.CompletedProcess(argv, 0, text, "")
        raise AssertionError(f"no such program: {argv}")

    def _carry_out(self, request: str, text: str) -> Ended:
        flavour, family = self.programs.version.flavour, self.programs.family
        if self.ends:
            return Ended(*self.ends.pop(0)(lambda: self._kernel.restore(flavour, family, text)))
        said = self._kernel.restore(flavour, family, text)
        return Ended(1 if said else 0, said)


def programs(flavour: Flavour, family: Family) -> Programs:
    return Programs(family, f"{_STEMS[family]}-{flavour}", Version(flavour, (1, 8, 9)))


def done(carry_out: Callable[[], str]) -> tuple[int, str]:
    """It ends as it would anyway."""
    said = carry_out()
    return int(bool(said)), said


def killed(carry_out: Callable[[], str]) -> tuple[int, str]:
    """The program is killed before it has done anything."""
    return -9, ""


def killed_late(carry_out: Callable[[], str]) -> tuple[int, str]:
    """The program is killed when the kernel has done it already."""
    return -9, carry_out()


def locked(carry_out: Callable[[], str]) -> tuple[int, str]:
    """Another program holds the lock all the time."""
    return (
        4,
        "Another app is currently holding the xtables lock; still 0s 0us time ahead to have a chance to grab the lock...\n",
    )


@lru_cache(maxsize=100_000)
def _parse(rule: str) -> tuple[str, tuple[str, ...]]:
    """Return the target of a rule, empty without one, and the sets it names."""
    words, target, sets = shlex.split(rule), "", list[str]()
    for option, value in itertools.pairwise(words):
        if option in {"-j", "-g"}:
            target = value
        elif option in {"--match-set", "--add-set", "--map-set"}:
            sets.append(value)
    return target, tuple(sets)


def _names(rule: str) -> tuple[str, ...]:
    """Return what a rule refers to: chains, targets and sets."""
    target, sets = _parse(rule)
    return target, *sets
