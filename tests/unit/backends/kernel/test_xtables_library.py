"""Rules given to python-iptables, on a stand-in for it. The real one is asked in e2e/test_kernel_xtables_library.py."""

import importlib.util
import io
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from backends.kernel import xtables_library
from backends.kernel.xtables_library import OTHER, Option, answer, options, try_rules
from backends.kernel.xtables_text import RefusedLine
from proxy.errors import KernelError


class IPTCError(Exception):
    """What a refused commit raises."""


class XTablesError(Exception):
    """What an unknown extension raises."""


class Extension:
    def __init__(self, name: str, said: list[Any]) -> None:
        self.name, self._said = name, said

    def set_parameter(self, name: str, value: Any) -> None:
        self._said.append((self.name, name, value))


class Rule:
    """A rule that notes what is said of it; `kind` tells the families apart."""

    kind = "IPv4"

    def __init__(self) -> None:
        vars(self)["said"] = []

    def __setattr__(self, name: str, value: object) -> None:
        self.said.append((name, value))

    def __getattr__(self, name: str) -> Any:
        return vars(self)[name]

    def create_match(self, name: str) -> Extension:
        if name == "unknown":
            raise XTablesError(f"can't find match {name}")
        self.said.append(("match", name))
        return Extension(name, self.said)

    def create_target(self, name: str, *, goto: bool) -> Extension:
        self.said.append(("goto" if goto else "jump", name))
        return Extension(name, self.said)


class Rule6(Rule):
    kind = "IPv6"


class Table:
    """Chains, as the kernel has them and as they will be. A rule with a target in `refuses` is refused at the commit."""

    made: "list[Table]" = []  # noqa: RUF012 - emptied by the fixture

    def __init__(self, name: str, *, autocommit: bool) -> None:
        assert not autocommit
        self.name = name
        self.chains: dict[str, list[Rule]] = {}
        self.draft: dict[str, list[Rule]] = {}
        self.committed: list[Rule] = []
        self.made.append(self)

    def create_chain(self, name: str) -> None:
        if name in self.draft:
            raise IPTCError("File exists")
        self.draft[name] = []

    def delete_chain(self, name: str) -> None:
        assert not self.draft[name]
        del self.draft[name]

    def commit(self) -> None:
        rules = [rule for found in self.draft.values() for rule in found]
        if any(("jump", "REJECT") in rule.said for rule in rules):
            raise IPTCError("can't commit")
        self.chains = {name: list(found) for name, found in self.draft.items()}
        self.committed += rules

    def refresh(self) -> None:
        self.draft = {name: list(found) for name, found in self.chains.items()}


class Chain:
    def __init__(self, table: Table, name: str) -> None:
        self._rules = table.draft[name]

    def append_rule(self, rule: Rule) -> None:
        self._rules.append(rule)

    def flush(self) -> None:
        self._rules.clear()


@pytest.fixture(autouse=True)
def library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stands in for the module while a test runs."""
    module = ModuleType("iptc")
    vars(module).update(
        IPTCError=IPTCError, XTablesError=XTablesError, Rule=Rule, Rule6=Rule6, Chain=Chain
    )
    vars(module).update(Table=Table, Table6=Table)
    monkeypatch.setitem(sys.modules, "iptc", module)
    monkeypatch.setattr(Table, "made", [])


def committed() -> list[list[Any]]:
    (table,) = Table.made
    return [rule.said for rule in table.committed]


def answered(family: str, *rules: str) -> list[list[object]]:
    """What is answered about rules of table nat."""
    told = io.StringIO()
    answer(io.StringIO(json.dumps({family: {"nat": rules}})), told)
    found: list[list[object]] = json.loads(told.getvalue())[family]["nat"]
    return found


@pytest.mark.parametrize("family", ["IPv4", "IPv6"])
def test_a_rule_is_committed_as_it_is_said_and_taken_out_again(family: str) -> None:
    rule = f"! -s 127.0.0.0/8 -p tcp -m set ! --match-set a dst,dst -m tcp --dport 80 -g {OTHER}"

    assert answered(family, rule) == []

    (table,) = Table.made
    assert committed() == [
        [
            ("src", "!127.0.0.0/8"),
            ("protocol", "tcp"),
            ("match", "set"),
            ("set", "match_set", ["!", "a", "dst,dst"]),
            ("match", "tcp"),
            ("tcp", "dport", "80"),
            ("goto", OTHER),
        ]
    ]
    assert [made.kind for made in table.committed] == [family]
    assert (table.name, table.chains) == ("nat", {})


def test_an_option_without_words_is_said_as_one() -> None:
    assert answered("IPv4", "-i veth+ -j MASQUERADE --random-fully") == []

    assert committed() == [
        [("in_interface", "veth+"), ("jump", "MASQUERADE"), ("MASQUERADE", "random_fully", "")]
    ]


def test_what_cannot_be_had_is_named_and_the_rest_is_tried() -> None:
    rules = ["-m unknown -j RETURN", "-j ACCEPT", "-j REJECT", "-j RETURN"]

    assert answered("IPv4", *rules) == [[0, "can't find match unknown"], [2, "can't commit"]]

    assert committed() == [[("jump", "ACCEPT")], [("jump", "RETURN")]]
    assert Table.made[0].chains == {}


# --- the process


def python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    """Have another program stand in for Python."""
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\n{body}\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))


def test_a_process_of_its_own_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = json.dumps({"IPv4": {"nat": [[1, "no"]]}})
    python(
        tmp_path,
        monkeypatch,
        f"echo \"$@\" > {tmp_path}/argv; cat > {tmp_path}/asked; echo '{said}'",
    )

    found = try_rules({"IPv4": {"nat": ["-j A", "-j B"]}})

    assert found == {"IPv4": {"nat": [RefusedLine(1, "no")]}}
    assert (tmp_path / "argv").read_text() == "-I -m backends.kernel.xtables_library\n"
    assert json.loads((tmp_path / "asked").read_text()) == {"IPv4": {"nat": ["-j A", "-j B"]}}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("cat > /dev/null; echo first >&2; echo ImportError >&2; exit 1", "exit 1: ImportError"),
        ("cat > /dev/null; kill -SEGV $$", "exit -11: no reason given"),
    ],
)
def test_that_it_fails_is_told_and_costs_nobody_else(
    body: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python(tmp_path, monkeypatch, body)

    with pytest.raises(KernelError, match=said):
        try_rules({"IPv4": {"nat": ["-j A"]}})


def test_that_there_is_no_process_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")

    with pytest.raises(KernelError, match="nowhere"):
        try_rules({"IPv4": {"nat": ["-j A"]}})


def test_options_are_told_apart() -> None:
    assert list(options("-p tcp ! -d 1.2.3.4 -m set ! --match-set a dst,src -j SET --exist")) == [
        Option("p", ("tcp",), is_inverted=False),
        Option("d", ("1.2.3.4",), is_inverted=True),
        Option("m", ("set",), is_inverted=False),
        Option("match-set", ("a", "dst,src"), is_inverted=True),
        Option("j", ("SET",), is_inverted=False),
        Option("exist", (), is_inverted=False),
    ]


def test_whether_it_is_there_is_known_without_importing_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(sys.modules, "iptc")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert not xtables_library.is_installed()

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name == "iptc")
    assert xtables_library.is_installed()
    assert "iptc" not in sys.modules
