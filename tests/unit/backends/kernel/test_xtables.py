"""The door to iptables, on programs that say what a test wants. The real ones are asked in e2e/test_kernel_xtables.py."""

import errno
import fcntl
import os
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from backends.kernel import xtables, xtables_kept, xtables_legacy
from backends.kernel.nft import Nft
from backends.kernel.nft_messages import new_chain, new_rule, new_table
from backends.kernel.nft_numbers import NFPROTO_IPV4
from backends.kernel.xtables import Incompatible, LockHeld, Programs, Refused, Xtables
from backends.kernel.xtables_fed import FedProgram
from backends.kernel.xtables_text import Chain, Flavour, RefusedLine, Version
from proxy.errors import KernelError, Unsupported
from proxy.model import IPV4, IPV6
from proxy.netlink import codec
from tests.fakes.nft import NftKernel

NFT = Programs(IPV4, "iptables-nft", Version(Flavour.NFT, (1, 8, 9)))
LEGACY = Programs(IPV4, "iptables-legacy", Version(Flavour.LEGACY, (1, 8, 9)))
LINES = [":A - [0:0]", "-A A -j RETURN"]

Install = Callable[[str, str], Path]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Put a program on the search path, which holds no other ones of iptables'. Its body is a script of the shell."""
    monkeypatch.setenv("PATH", str(tmp_path))

    def put(name: str, body: str) -> Path:
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\nPATH=/usr/bin:/bin\ncd {tmp_path}\n{body}\n")
        program.chmod(0o755)
        return tmp_path

    return put


def feed(install: Install, name: str, at_commit: str = ":", at_start: str = ":") -> Path:
    """Put a program on the search path that repeats comments and has a table in the file `given` when it is to commit it."""
    return install(
        name,
        f"""{at_start}
        : > given
        while IFS= read -r line; do
            case $line in
            "#"*) echo "$line" ;;
            COMMIT) echo "$line" >> given; {at_commit}; : > given ;;
            *) echo "$line" >> given ;;
            esac
        done""",
    )


def versions(install: Install, **programs: str) -> None:
    for name, said in programs.items():
        install(name.replace("_", "-"), f'[ "$*" = --version ] && echo "{said}"')


# --- which programs there are


def test_each_flavour_is_found_under_its_own_name(install: Install) -> None:
    versions(
        install,
        iptables="iptables v1.8.9 (nf_tables)",
        iptables_nft="iptables v1.8.9 (nf_tables)",
        iptables_legacy="iptables v1.8.9 (legacy)",
        ip6tables_nft="ip6tables v1.8.9 (nf_tables)",
    )

    assert xtables.find_programs(IPV4) == {Flavour.NFT: NFT, Flavour.LEGACY: LEGACY}
    assert xtables.find_programs(IPV6) == {
        Flavour.NFT: Programs(IPV6, "ip6tables-nft", Version(Flavour.NFT, (1, 8, 9)))
    }
    assert xtables.usual_flavour(IPV4) is Flavour.NFT
    assert xtables.usual_flavour(IPV6) is None


@pytest.mark.parametrize(
    ("said", "version"),
    [
        ("iptables v1.6.1", Version(Flavour.LEGACY, (1, 6, 1))),
        ("iptables v1.8.4 (nf_tables)", Version(Flavour.NFT, (1, 8, 4))),
    ],
)
def test_a_program_without_flavours_in_its_name_is_found(
    install: Install, said: str, version: Version
) -> None:
    versions(install, iptables=said)

    assert xtables.find_programs(IPV4) == {version.flavour: Programs(IPV4, "iptables", version)}
    assert xtables.usual_flavour(IPV4) is version.flavour


def test_a_program_that_fails_or_is_none_of_iptables_does_not_count(install: Install) -> None:
    install("iptables", "echo iptables v1.8.9; exit 1")
    install("iptables-nft", "echo hello")

    assert xtables.find_programs(IPV4) == {}
    assert xtables.usual_flavour(IPV4) is None


def test_programs_that_cannot_wait_for_the_lock_are_not_used() -> None:
    old = LEGACY._replace(version=Version(Flavour.LEGACY, (1, 6, 1)))
    with pytest.raises(Unsupported, match=r"iptables 1\.6\.2"):
        Xtables(old)


# --- writing


def test_lines_are_given_to_the_program_with_a_bounded_wait_for_the_lock(
    install: Install,
) -> None:
    place = feed(
        install,
        "iptables-nft-restore",
        "cat given >> all",
        'echo "$@" > arguments; echo $LC_ALL > locale',
    )
    rules = Xtables(NFT, lock_wait_s=7)

    rules.restore("nat", LINES)
    rules.restore("filter", LINES)

    assert (place / "arguments").read_text() == "--noflush --wait 7 --verbose\n"
    assert (place / "locale").read_text() == "C\n"
    text = "*nat\n:A - [0:0]\n-A A -j RETURN\nCOMMIT\n"
    assert (place / "all").read_text() == text + text.replace("nat", "filter")


def test_a_program_that_cannot_be_kept_is_started_for_each_call(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = install("iptables-nft-restore", 'echo "$@" >> arguments; cat | grep -v "#" >> given')

    class Running(FedProgram):
        """The time it has to answer begins when its shell has come so far."""

        def __init__(self, argv: Sequence[str], environment: Mapping[str, str]) -> None:
            super().__init__(argv, environment)
            until_s = time.monotonic() + 20
            while not (place / "arguments").exists():
                assert time.monotonic() < until_s
                time.sleep(0.001)

    monkeypatch.setattr(xtables_kept, "_ANSWER_S", 0.2)
    monkeypatch.setattr(xtables_kept, "FedProgram", Running)
    rules = Xtables(NFT)

    rules.restore("nat", LINES)
    rules.restore("nat", LINES)

    first, *others = (place / "arguments").read_text().splitlines()
    assert first.endswith("--verbose")
    assert others == ["--noflush --wait 5"] * 2
    text = "*nat\n:A - [0:0]\n-A A -j RETURN\nCOMMIT\n"
    assert (place / "given").read_text() == text * 2


def test_nothing_is_run_for_no_lines(install: Install) -> None:
    Xtables(NFT).restore("nat", [])  # there is no program


@pytest.mark.parametrize("calls_before", [0, 2])
def test_the_refused_line_is_named(install: Install, calls_before: int) -> None:
    # lines are counted from the start of the program: a comment, and five lines for each call before
    first = 2 + 5 * calls_before
    place = feed(
        install,
        "iptables-nft-restore",
        "[ -e works ] || { printf '%s\\n' 'iptables-nft-restore v1.8.9 (nf_tables): ' "
        f"'line {first + 2}: RULE_APPEND failed (Invalid argument): rule in chain A' "
        f"'line {first + 1}: CHAIN_ADD failed (No space left on device): chain A' >&2; exit 4; }}",
    )
    rules = Xtables(NFT)
    (place / "works").touch()
    for _ in range(calls_before):
        rules.restore("nat", LINES)
    (place / "works").unlink()

    with pytest.raises(Refused) as raised:
        rules.restore("nat", LINES)

    assert raised.value.refusals == (
        RefusedLine(1, "RULE_APPEND failed (Invalid argument): rule in chain A"),
        RefusedLine(0, "CHAIN_ADD failed (No space left on device): chain A"),
    )
    assert str(raised.value) == (
        "iptables-nft-restore: 2 lines for table nat: "
        "RULE_APPEND failed (Invalid argument): rule in chain A and 1 more"
    )


def test_a_table_that_legacy_refuses_as_a_whole_names_no_line(install: Install) -> None:
    feed(install, "iptables-legacy-restore", "echo 'iptables-restore: line 5 failed' >&2; exit 1")

    with pytest.raises(Refused, match="refused") as raised:
        Xtables(LEGACY).restore("nat", LINES)

    assert raised.value.refusals == (RefusedLine(None, "refused"),)


def test_a_held_lock_is_its_own_error(install: Install) -> None:
    feed(
        install,
        "iptables-legacy-restore",
        "echo 'Another app is currently holding the xtables lock. Stopped waiting after 5s.' >&2; exit 4",
    )

    with pytest.raises(LockHeld, match="held for 5 s"):
        Xtables(LEGACY).restore("nat", LINES)


@pytest.mark.parametrize(
    "said",
    [
        "# Warning: line 3: failed",
        "Another app is currently holding the xtables lock; still 1s 0us time ahead to have a chance",
    ],
)
def test_warnings_of_a_program_that_succeeds_are_no_error(install: Install, said: str) -> None:
    feed(install, "iptables-nft-restore", f"echo '{said}' >&2")
    Xtables(NFT).restore("nat", LINES)


def test_what_a_killed_program_has_done_is_unknown(install: Install) -> None:
    feed(install, "iptables-nft-restore", "kill -9 $$")

    with pytest.raises(KernelError, match=f"signal {signal.SIGKILL.value}") as raised:
        Xtables(NFT).restore("nat", LINES)

    assert not isinstance(raised.value, Refused | LockHeld)


def test_what_a_program_that_does_not_end_has_done_is_unknown_and_it_is_killed(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = feed(install, "iptables-nft-restore", "exec sleep 100", "echo $$ > process")
    monkeypatch.setattr(xtables, "_WORKING_S", 0.5)

    with pytest.raises(KernelError) as raised:
        Xtables(NFT, lock_wait_s=0).restore("nat", LINES)

    assert raised.value.errno == errno.ETIMEDOUT
    assert not isinstance(raised.value, Refused | LockHeld)
    assert not Path("/proc", (place / "process").read_text().strip()).exists()


def test_a_program_that_is_gone_is_an_error(install: Install) -> None:
    with pytest.raises(KernelError) as raised:
        Xtables(NFT).restore("nat", LINES)
    assert raised.value.errno == errno.ENOENT


def test_a_program_that_reads_nothing_and_ends_is_no_crash(install: Install) -> None:
    install("iptables-nft-restore", "exit 0")
    Xtables(NFT).restore("nat", LINES * 100_000)


# --- writing without waiting


def test_nothing_is_begun_while_no_program_is_there(install: Install) -> None:
    feed(install, "iptables-nft-restore")
    assert Xtables(NFT).begin("nat", LINES) is None


def test_what_is_begun_ends_as_what_is_waited_for(install: Install) -> None:
    place = feed(install, "iptables-nft-restore", "[ -e works ] || { echo no >&2; exit 1; }")
    (place / "works").touch()
    rules = Xtables(NFT)
    rules.restore("nat", LINES)

    begun = rules.begin("nat", LINES)
    assert begun is not None
    assert rules.begin("nat", LINES) is None  # one at a time
    begun.finish()
    assert begun.is_done
    assert not begun.is_awaited

    (place / "works").unlink()
    again = rules.begin("nat", LINES)
    assert again is not None
    with pytest.raises(Refused, match="no"):
        again.finish()
    assert rules.begin("nat", LINES) is None


def test_a_door_that_is_closed_leaves_no_program(install: Install) -> None:
    place = feed(install, "iptables-nft-restore", "echo $$ > process")
    rules = Xtables(NFT)
    rules.restore("nat", LINES)
    process = Path("/proc", (place / "process").read_text().strip())
    assert process.exists()
    assert rules.system_s() >= 0

    rules.close()

    assert not process.exists()
    assert rules.system_s() == 0
    rules.restore("nat", LINES)  # another one


# --- reading


def test_the_chains_of_a_table_are_read(install: Install) -> None:
    place = install(
        "iptables-nft-save",
        'echo "$@" > arguments; echo "*nat"; echo ":A - [0:0]"; echo "-A A -j RETURN"; echo COMMIT',
    )

    assert Xtables(NFT).save("nat") == {"A": Chain(None, ("-j RETURN",))}
    assert (place / "arguments").read_text() == "-t nat\n"


def test_names_in_any_encoding_are_read(install: Install) -> None:
    install("iptables-nft-save", r"printf '*nat\n:\377 - [0:0]\nCOMMIT\n'")
    assert list(Xtables(NFT).save("nat")) == ["\udcff"]


def test_a_table_that_is_not_there_has_no_chains(install: Install) -> None:
    install("iptables-nft-save", "true")
    assert Xtables(NFT).save("nat") == {}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("echo 'Permission denied' >&2; exit 4", "Permission denied"),
        ("exit 3", "exit 3"),
        ("""echo "# Table \\`nat' is incompatible, use 'nft' tool." """, "only nft can list"),
    ],
)
def test_a_table_that_cannot_be_read_is_an_error(install: Install, body: str, words: str) -> None:
    install("iptables-nft-save", body)
    with pytest.raises(KernelError, match=words):
        Xtables(NFT).save("nat")


@pytest.mark.parametrize(
    "body",
    [
        """echo "# Table \\`nat' is incompatible, use 'nft' tool." """,
        "echo 'iptables-nft-save v1.8.9 (nf_tables): Parsing nftables rule failed' >&2; exit 3",
    ],
)
def test_a_table_with_rules_that_only_nft_can_list_is_told_from_one_that_cannot_be_read(
    install: Install, body: str
) -> None:
    install("iptables-nft-save", body)
    with pytest.raises(Incompatible):
        Xtables(NFT).save("nat")


def test_whether_a_rule_is_there_is_known_by_its_comment_however_that_is_stored() -> None:
    mark, other = "0123456789abcdef", "fedcba9876543210"
    matched = codec.nested(
        1,
        codec.attr_string(1, "match")
        + codec.nested(2, codec.attr_string(1, "comment") + codec.attr(3, mark.encode())),
    )
    with NftKernel().entered(), Nft() as nft:
        nft.commit(
            [
                new_table(NFPROTO_IPV4, "nat"),
                *[new_chain(NFPROTO_IPV4, "nat", name) for name in ("A", "B", "C")],
                new_rule(NFPROTO_IPV4, "nat", "A", b"", mark),
                new_rule(NFPROTO_IPV4, "nat", "B", matched),
                new_rule(NFPROTO_IPV4, "nat", "C", b"", other),
            ]
        )
        door = Xtables(NFT)

        found = [name for name in ("A", "B", "C", "D") if door.has_comment("nat", name, mark)]

    assert found == ["A", "B"]


def test_a_legacy_table_that_is_not_used_is_not_asked_for(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(xtables_legacy, "table_names", {IPV4: ["filter"]}.__getitem__)
    install("iptables-legacy-save", 'echo "*$2"; echo ":A - [0:0]"; echo COMMIT')

    assert Xtables(LEGACY).save("nat") == {}
    assert Xtables(LEGACY).save("filter") == {"A": Chain(None, ())}


# --- the lock


def test_the_lock_is_held_for_the_length_of_a_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = tmp_path / "lock"
    monkeypatch.setenv("XTABLES_LOCKFILE", str(lock))

    with xtables.lock_held(), lock.open() as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)

    with lock.open() as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with pytest.raises(LockHeld, match="held for 0 s"), xtables.lock_held(0):
            raise AssertionError


def test_where_there_can_be_no_lock_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XTABLES_LOCKFILE", str(tmp_path / "none/lock"))

    with pytest.raises(KernelError) as raised, xtables.lock_held():
        raise AssertionError

    assert raised.value.errno == errno.ENOENT


# --- the right to ask


@pytest.mark.parametrize(
    ("number", "lacks"), [(errno.EPERM, True), (errno.EAFNOSUPPORT, False), (0, False)]
)
def test_who_may_open_no_raw_sockets_lacks_a_right(
    monkeypatch: pytest.MonkeyPatch, number: int, *, lacks: bool
) -> None:
    def open_socket(family: int, kind: int, protocol: int) -> socket.socket:
        assert (family, kind, protocol) == (socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
        if number:
            raise OSError(number, os.strerror(number))
        return unprivileged()

    unprivileged = socket.socket
    monkeypatch.setattr(socket, "socket", open_socket)

    assert xtables.lacks_net_raw() is lacks
