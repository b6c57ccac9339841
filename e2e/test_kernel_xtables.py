"""The door to iptables with the real programs, in both flavours and families; and what we read from their errors."""

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from backends.kernel.xtables import (
    Incompatible,
    LockHeld,
    Refused,
    Xtables,
    find_programs,
    usual_flavour,
)
from backends.kernel.xtables_legacy import LegacyTables, table_names
from backends.kernel.xtables_text import Chain, Flavour, RefusedLine, split_rule
from e2e.namespace import Namespace
from proxy.errors import KernelError
from proxy.model import FAMILIES, IPV4, Family

BUILT_IN = {"PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"}
ENDPOINT: dict[Family, str] = {"IPv4": "10.0.0.1:8080", "IPv6": "[fd00::1]:8080"}


@pytest.fixture(
    params=[
        pytest.param((flavour, family), marks=pytest.mark.requires(f"iptables-{flavour}"))
        for flavour in Flavour
        for family in FAMILIES
    ],
    ids="-".join,
)
def flavour_and_family(request: pytest.FixtureRequest) -> tuple[Flavour, Family]:
    chosen: tuple[Flavour, Family] = request.param
    return chosen


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    """A fresh one, entered."""
    with Namespace("xtables") as made, made.entered():
        yield made


@pytest.fixture
def rules(namespace: Namespace, flavour_and_family: tuple[Flavour, Family]) -> Xtables:
    """The door to a namespace without rules."""
    flavour, family = flavour_and_family
    return Xtables(find_programs(family)[flavour], lock_wait_s=1)


def own(rules: Xtables, table: str = "nat") -> dict[str, Chain]:
    """All chains but those that are built in."""
    return {name: chain for name, chain in rules.save(table).items() if chain.policy is None}


@pytest.mark.requires("iptables")
def test_the_programs_are_found_and_one_of_them_is_the_usual_one() -> None:
    for family in FAMILIES:
        assert usual_flavour(family) in find_programs(family)


def test_what_is_written_is_read(rules: Xtables) -> None:
    endpoint = ENDPOINT[rules.programs.family]
    rules.restore(
        "nat",
        [
            ":SP-A - [0:0]",
            ":SP-B - [0:0]",
            '-A SP-A -m comment --comment "mark 1" -j SP-B',
            f"-A SP-B -p tcp -m statistic --mode random --probability 0.5 -j DNAT --to-destination {endpoint}",
            f"-A SP-B -p tcp -j DNAT --to-destination {endpoint}",
            "-I PREROUTING -j SP-A",
        ],
    )

    chains = rules.save("nat")

    assert chains.keys() == BUILT_IN | {"SP-A", "SP-B"}
    assert chains["PREROUTING"] == Chain("ACCEPT", ("-j SP-A",))
    (first,) = chains["SP-A"].rules
    assert split_rule(first) == ["-m", "comment", "--comment", "mark 1", "-j", "SP-B"]
    assert [rule.split()[-1] for rule in chains["SP-B"].rules] == [endpoint, endpoint]


def test_a_chain_is_replaced_and_no_other_is_touched(rules: Xtables) -> None:
    rules.restore("nat", [":A - [0:0]", ":B - [0:0]", "-A A -j B", "-A B -j RETURN"])

    rules.restore("nat", [":B - [0:0]", "-A B -j ACCEPT", "-A B -j RETURN"])

    assert own(rules) == {
        "A": Chain(None, ("-j B",)),
        "B": Chain(None, ("-j ACCEPT", "-j RETURN")),
    }

    rules.restore("nat", [":A - [0:0]", "-X A"])
    assert own(rules).keys() == {"B"}


def test_a_table_nobody_used_is_read_as_empty_and_stays_unused(rules: Xtables) -> None:
    assert own(rules, "mangle") == {}

    if rules.programs.version.flavour is Flavour.LEGACY:
        assert rules.save("mangle") == {}
        assert Path("/proc/thread-self/net/ip_tables_names").read_text() == ""


# what stands for a line that is refused, and whether the flavours name it
_WRONG = {
    "an option that there is not": ("-A A --bogus x -j RETURN", True, True),
    "a set that there is not": ("-A A -m set --match-set sp-none dst -j RETURN", True, True),
    "a chain that there is not": ("-A NONE -j RETURN", True, True),
    "a jump to none": ("-A A -j NONE", True, False),
    "a target of another table": ("-A A -j REJECT", False, True),
    "a drop in nat": ("-A A -j DROP", True, True),
    "a chain in use": ("-X B", True, True),
    "a rule that there is not": ("-D A -j ACCEPT", True, True),
    "a loop": ("-A B -j A", False, True),
}


@pytest.mark.parametrize("kind", _WRONG)
def test_a_refused_line_is_named_and_nothing_is_done(rules: Xtables, kind: str) -> None:
    wrong, legacy_names, nft_names = _WRONG[kind]
    start = [":A - [0:0]", ":B - [0:0]", "-A A -j B", "-A PREROUTING -j A"]
    rules.restore("nat", start)
    before = rules.save("nat")
    lines = [":C - [0:0]", "-A C -j RETURN", wrong, "-A C -j ACCEPT", "-A C -j RETURN"]

    with pytest.raises(Refused) as raised:
        rules.restore("nat", lines)

    is_legacy = rules.programs.version.flavour is Flavour.LEGACY
    is_named = legacy_names if is_legacy else nft_names
    first, *others = raised.value.refusals
    assert first == RefusedLine(2 if is_named else None, first.text)
    assert first.text
    # while there is a loop, nftables refuses what comes after as well
    assert all(kind == "a loop" and other.index in {3, 4} for other in others)
    assert rules.save("nat") == before


@pytest.mark.requires("iptables-nft")
def test_nftables_names_all_lines_it_refuses(namespace: Namespace) -> None:
    rules = Xtables(find_programs(IPV4)[Flavour.NFT])

    with pytest.raises(Refused) as raised:
        rules.restore("nat", [":A - [0:0]", "-A A -j REJECT", "-A A -j RETURN", "-A A -j REJECT"])

    assert [refusal.index for refusal in raised.value.refusals] == [1, 3]


def test_a_table_that_there_is_not_is_refused(rules: Xtables) -> None:
    with pytest.raises(Refused) as raised:
        rules.restore("none", [":A - [0:0]"])
    (refusal,) = raised.value.refusals
    assert refusal == RefusedLine(None, refusal.text)
    assert "none" in refusal.text


@pytest.mark.requires("iptables-legacy")
def test_the_lock_is_waited_for_and_then_given_up(
    namespace: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = tmp_path / "lock"  # not the host's
    monkeypatch.setenv("XTABLES_LOCKFILE", str(lock))
    rules = Xtables(find_programs(IPV4)[Flavour.LEGACY], lock_wait_s=1)
    holder = os.open(lock, os.O_CREAT | os.O_RDONLY, 0o600)
    try:
        fcntl.flock(holder, fcntl.LOCK_EX)
        with pytest.raises(LockHeld):
            rules.restore("nat", [":A - [0:0]"])
        assert rules.save("nat") == {}
    finally:
        os.close(holder)

    rules.restore("nat", [":A - [0:0]"])
    assert own(rules) == {"A": Chain(None, ())}


@pytest.mark.requires("iptables-legacy")
@pytest.mark.parametrize("family", FAMILIES)
def test_a_changed_legacy_table_is_seen_without_reading_it(
    namespace: Namespace, family: Family
) -> None:
    rules = Xtables(find_programs(family)[Flavour.LEGACY])
    assert table_names(family) == []
    rules.restore("nat", [":A - [0:0]"])
    assert table_names(family) == ["nat"]

    with LegacyTables(family) as tables:
        before = tables.info("nat")
        assert before is not None
        rules.restore("nat", ["-A A -j RETURN"])
        after = tables.info("nat")
        assert after is not None
        assert after.entries == before.entries + 1
        assert after.size > before.size
        # another rule of the same kind takes the same room, a foreign flush leaves none
        rules.restore("nat", [":A - [0:0]", "-A A -j ACCEPT"])
        assert tables.info("nat") == after
        rules.restore("nat", ["-F A"])
        assert tables.info("nat") == before
        assert tables.info("none") is None
        rules.restore("nat", ["-X A"])
        without = tables.info("nat")
        assert without is not None
        # a chain has a head and an end
        assert without.entries == before.entries - 2


@pytest.mark.requires("iptables-legacy", "iptables-nft")
def test_the_flavours_do_not_see_each_other(namespace: Namespace) -> None:
    found = find_programs(IPV4)
    legacy, nft = Xtables(found[Flavour.LEGACY]), Xtables(found[Flavour.NFT])

    legacy.restore("nat", [":SP-LEGACY - [0:0]"])
    nft.restore("nat", [":SP-NFT - [0:0]"])

    assert own(legacy).keys() == {"SP-LEGACY"}
    assert own(nft).keys() == {"SP-NFT"}
    # nft now warns of the other's tables on every call, which is no error
    with pytest.raises(Refused) as raised:
        nft.restore("nat", ["-A NONE -j RETURN"])
    assert [refusal.index for refusal in raised.value.refusals] == [0]


@pytest.mark.requires("iptables-nft", "nftables")
def test_what_only_nft_can_say_is_never_read_as_ours(namespace: Namespace) -> None:
    rules = Xtables(find_programs(IPV4)[Flavour.NFT])
    namespace.run(
        ["nft", "add table ip nat; add chain ip nat theirs { type nat hook input priority 7; }"]
    )
    rules.restore("nat", [":SP-A - [0:0]"])

    try:
        found = own(rules)
    except KernelError:
        return
    assert found["SP-A"] == Chain(None, ())


@pytest.mark.requires("iptables-nft", "nftables")
@pytest.mark.parametrize("family", FAMILIES)
def test_a_table_that_cannot_be_read_can_be_written_and_asked(
    namespace: Namespace, family: Family
) -> None:
    rules, of = Xtables(find_programs(family)[Flavour.NFT]), {"IPv4": "ip", "IPv6": "ip6"}[family]
    mark = "0123456789abcdef"
    jump = f'-m comment --comment "{mark}" -m conntrack ! --ctstate DNAT -j SP-A'
    rules.restore("nat", [":SP-A - [0:0]", ":SP-OLD - [0:0]", f"-I OUTPUT 1 {jump}"])
    # one that save tells in words, and one that the programs give up at, before and behind ours
    for strange in ("udp dport 9 numgen random mod 2 0 counter", "meta cgroup 7 counter"):
        for verb in ("insert", "add"):
            namespace.run(["nft", f"{verb} rule {of} nat OUTPUT {strange}"])
        with pytest.raises(Incompatible):
            rules.save("nat")

    rules.restore(
        "nat", [":SP-A - [0:0]", "-A SP-A -p tcp -j RETURN", ":SP-OLD - [0:0]", "-X SP-OLD"]
    )

    assert set(rules.chain_names("nat")) - BUILT_IN == {"SP-A"}
    assert rules.has_comment("nat", "OUTPUT", mark)
    assert not rules.has_comment("nat", "OUTPUT", mark[::-1])
    assert not rules.has_comment("nat", "POSTROUTING", mark)
    assert not rules.has_comment("nat", "NONE", mark)
    assert "return" in namespace.run(["nft", f"list chain {of} nat SP-A"])
    rules.restore("nat", [f"-I OUTPUT 1 {jump}"])
    assert rules.remove_commented("nat", "OUTPUT", mark) == 2
    assert rules.remove_commented("nat", "OUTPUT", mark) == 0
    rules.restore("nat", [":SP-A - [0:0]", "-X SP-A"])
    listed = namespace.run(["nft", f"list table {of} nat"])
    assert listed.count("random mod 2 0 counter") == listed.count("meta cgroup 7 counter") == 2
    assert "SP-A" not in listed


def test_foreign_rules_keep_their_place_and_words(rules: Xtables) -> None:
    theirs = [
        ":KUBE-X - [0:0]",
        "-A KUBE-X -p udp -j RETURN",
        "-A OUTPUT -j KUBE-X",
        "-P INPUT ACCEPT",
    ]
    rules.restore("nat", theirs[:3])
    before = rules.save("nat")

    rules.restore("nat", [":SP-A - [0:0]", "-A SP-A -j RETURN", "-I OUTPUT -j SP-A"])
    assert rules.save("nat")["OUTPUT"].rules == ("-j SP-A", "-j KUBE-X")
    rules.restore("nat", ["-D OUTPUT -j SP-A", "-F SP-A", "-X SP-A"])

    assert rules.save("nat") == before


# --- the program that is kept for the next call


def kept_by(namespace: Namespace) -> list[str]:
    """The programs that stay in a namespace."""
    pids = namespace.run(["ip", "netns", "pids", namespace.name]).split()
    lines = [Path("/proc", pid, "cmdline") for pid in pids]
    programs = [Path(line.read_text().split("\0")[0]) for line in lines if line.exists()]
    return [program.name for program in programs if program.name.endswith("-restore")]


def test_one_program_carries_out_all_calls_and_ends_with_the_door(
    rules: Xtables, namespace: Namespace
) -> None:
    for number in range(3):
        rules.restore("nat", [":A - [0:0]", f"-A A -p tcp --dport {number + 1} -j RETURN"])
        assert own(rules).keys() == {"A"}
        assert kept_by(namespace) == [f"{rules.programs.stem}-restore"]

    assert " 3 " in own(rules)["A"].rules[0]
    rules.close()
    assert kept_by(namespace) == []


def test_what_others_did_between_two_calls_is_seen(rules: Xtables, namespace: Namespace) -> None:
    stem = rules.programs.stem
    rules.restore("nat", [":A - [0:0]", ":B - [0:0]", "-A A -j RETURN", "-A B -j A"])

    namespace.run([stem, "-t", "nat", "-A", "A", "-j", "ACCEPT"])
    namespace.run([stem, "-t", "nat", "-A", "PREROUTING", "-j", "RETURN"])
    rules.restore("nat", [":A - [0:0]", "-A A -p tcp -j RETURN", "-I PREROUTING -j B"])
    assert rules.save("nat")["PREROUTING"].rules == ("-j B", "-j RETURN")
    assert own(rules)["A"].rules == ("-p tcp -j RETURN",)

    namespace.run([stem, "-t", "nat", "-F"])
    namespace.run([stem, "-t", "nat", "-X", "A"])
    with pytest.raises(Refused):
        rules.restore("nat", [":B - [0:0]", "-A B -j A"])
    rules.restore("nat", [":B - [0:0]", ":A - [0:0]", "-A B -j A"])

    if rules.programs.version.flavour is Flavour.NFT:
        namespace.run(["nft", "flush", "ruleset"])
        rules.restore("nat", [":B - [0:0]", "-A B -j RETURN", "-I PREROUTING -j B"])
        assert rules.save("nat")["PREROUTING"].rules == ("-j B",)


def test_a_program_in_one_namespace_writes_to_no_other(
    rules: Xtables, namespace: Namespace
) -> None:
    rules.restore("nat", [":A - [0:0]"])

    with Namespace("xtables-2") as other, other.entered():
        rules.restore("nat", [":B - [0:0]"])
        assert own(rules).keys() == {"B"}

    assert own(rules).keys() == {"A"}
    rules.restore("nat", [":C - [0:0]"])  # the one that was there has gone with its namespace
    assert own(rules).keys() == {"A", "C"}


@pytest.mark.requires("iptables-legacy")
def test_a_program_that_waits_for_its_next_text_does_not_hold_the_lock(
    namespace: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XTABLES_LOCKFILE", str(tmp_path / "lock"))
    rules = Xtables(find_programs(IPV4)[Flavour.LEGACY])

    for _ in range(2):
        rules.restore("nat", [":A - [0:0]"])
        with (tmp_path / "lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert kept_by(namespace) == ["iptables-legacy-restore"]
