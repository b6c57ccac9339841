"""What is missing is named, and what was tried is gone. That real kernels accept the trials is e2e/test_iptables.py."""

import errno
from collections.abc import Callable

import pytest

from backends.iptables import probe as module
from backends.iptables.probe import TRIALS, probe, try_out
from backends.kernel import throwaway, xtables_library
from backends.kernel.ipset import Ipset
from backends.kernel.xtables_text import Flavour, RefusedLine
from proxy.errors import KernelError, Unsupported
from proxy.model import FAMILIES
from tests.contract.iptables_machine import FakeMachine

FLAVOURS = pytest.mark.parametrize("flavour", Flavour)


class Tried:
    """A machine on which everything was tried, or is about to be."""

    def __init__(self, flavour: Flavour) -> None:
        self.machine = FakeMachine()
        self.doors = {family: self.machine.tables.door(flavour, family) for family in FAMILIES}

    def try_out(self, *, is_thrown_away: bool = False) -> None:
        with self.machine.entered():
            try_out(self.doors, Ipset, is_thrown_away=is_thrown_away)

    def left(self) -> list[str]:
        flavour = self.doors["IPv4"].programs.version.flavour
        lines = self.machine.everything(flavour)
        return [line for line in lines if "SLICEPROXY" in line or "sliceproxy" in line]


@FLAVOURS
def test_everything_is_tried_in_both_tables_and_families_and_nothing_is_left(
    flavour: Flavour,
) -> None:
    tried = Tried(flavour)

    tried.try_out()

    text = "".join(tried.machine.tables.calls)
    assert all(trial.rule in text for trials in TRIALS.values() for trial in trials)
    assert tried.left() == []


@FLAVOURS
def test_the_rule_that_is_refused_is_named_and_nothing_is_left(
    flavour: Flavour, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = Tried(flavour)
    door = tried.doors["IPv6"]
    restore = door.restore

    def refuse(table: str, lines: list[str]) -> None:
        bad = [line for line in lines if "statistic" in line and "udp" in line]
        restore(table, [*lines, "-X NONE"] if bad else lines)

    monkeypatch.setattr(door, "restore", refuse)

    with pytest.raises(Unsupported, match=r"match statistic, target DNAT \(udp\).*--probability"):
        tried.try_out()
    assert tried.left() == []


def test_the_kind_of_set_that_is_missing_is_named() -> None:
    tried = Tried(Flavour.NFT)
    tried.machine.ipset.kinds.remove("hash:ip,port,net")

    with pytest.raises(Unsupported, match=r"ipset hash:ip,port,net \(IPv4\)"):
        tried.try_out()
    assert tried.left() == []


# --- python-iptables


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Callable[[object], list[object]]:
    """Have python-iptables answer so; the questions are returned."""
    asked: list[object] = []

    def answer_with(found: object) -> list[object]:
        def answer(rules: object) -> object:
            asked.append(rules)
            if isinstance(found, Exception):
                raise found
            return found

        monkeypatch.setattr(xtables_library, "try_rules", answer)
        monkeypatch.setattr(xtables_library, "is_installed", lambda: found is not None)
        return asked

    return answer_with


@pytest.fixture(autouse=True)
def _no_lock_of_the_host(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    monkeypatch.setenv("XTABLES_LOCKFILE", str(tmp_path_factory.mktemp("lock") / "lock"))


def test_on_legacy_the_programs_are_asked_only_what_the_library_could_not_do(
    library: Callable[[object], list[object]],
) -> None:
    tried = Tried(Flavour.LEGACY)
    at = [trial.table for trial in TRIALS["IPv6"]].index("nat")
    nothing: dict[str, list[RefusedLine]] = {"nat": [], "filter": []}
    asked = library({"IPv4": nothing, "IPv6": nothing | {"nat": [RefusedLine(0, "no")]}})

    tried.try_out(is_thrown_away=True)

    assert len(asked) == 1
    calls = tried.machine.tables.calls
    assert len(calls) == 2  # the rule, and away with it
    assert TRIALS["IPv6"][at].rule in calls[0]
    assert tried.left() == []


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (None, "python-iptables is not installed"),
        (KernelError("try rules", 0, "exit -11"), "exit -11"),
    ],
)
def test_where_the_library_is_missing_or_fails_that_is_said_and_the_programs_are_asked(
    found: object,
    said: str,
    library: Callable[[object], list[object]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    tried = Tried(Flavour.LEGACY)
    library(found)

    tried.try_out(is_thrown_away=True)

    assert said in caplog.text
    assert all(trial.rule in "".join(tried.machine.tables.calls) for trial in TRIALS["IPv4"])


def test_the_library_is_not_asked_about_nftables_nor_in_a_namespace_that_stays(
    library: Callable[[object], list[object]],
) -> None:
    asked = library({})

    Tried(Flavour.NFT).try_out(is_thrown_away=True)
    Tried(Flavour.LEGACY).try_out()

    assert asked == []


# --- where


@pytest.fixture
def tried_in(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether what was tried is thrown away, for each time."""
    tried: list[bool] = []

    def note(_: object, *, is_thrown_away: bool = False) -> None:
        tried.append(is_thrown_away)

    monkeypatch.setattr(module, "try_out", note)
    return tried


def no_namespaces(number: int) -> Callable[[object], None]:
    def refuse(_: object) -> None:
        raise KernelError("make a network namespace", number, "no")

    return refuse


@pytest.fixture(autouse=True)
def _may_open_raw_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "lacks_net_raw", lambda: False)


def test_without_the_right_to_raw_sockets_nothing_is_tried(
    tried_in: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "lacks_net_raw", lambda: True)

    with pytest.raises(Unsupported, match="NET_RAW; in a pod: deploy/mode-iptables"):
        probe(Tried(Flavour.NFT).doors)
    assert tried_in == []


def test_rules_are_tried_where_nobody_sees_them(
    tried_in: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(throwaway, "_unshare", lambda: None)

    probe(Tried(Flavour.NFT).doors)

    assert tried_in == [True]


def test_without_the_right_to_make_namespaces_they_are_tried_here(
    tried_in: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "in_throwaway_namespace", no_namespaces(errno.EPERM))

    probe(Tried(Flavour.NFT).doors)

    assert tried_in == [False]


def test_another_failure_is_one(tried_in: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "in_throwaway_namespace", no_namespaces(errno.ENOSPC))

    with pytest.raises(KernelError):
        probe(Tried(Flavour.NFT).doors)
    assert tried_in == []
