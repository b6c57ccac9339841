"""The door to iptables, on programs that say what a test wants. The real ones are asked in e2e/test_kernel_xtables.py."""

import errno
import fcntl
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from backends.kernel import xtables, xtables_legacy
from backends.kernel.xtables import LockHeld, Programs, Refused, Xtables
from backends.kernel.xtables_text import Chain, Flavour, RefusedLine, Version
from proxy.errors import KernelError, Unsupported
from proxy.model import IPV4, IPV6

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
    place = install(
        "iptables-nft-restore", 'echo "$@" > arguments; echo $LC_ALL > locale; cat > given'
    )

    Xtables(NFT, lock_wait_s=7).restore("nat", LINES)

    assert (place / "arguments").read_text() == "--noflush --wait 7\n"
    assert (place / "locale").read_text() == "C\n"
    assert (place / "given").read_text() == "*nat\n:A - [0:0]\n-A A -j RETURN\nCOMMIT\n"


def test_nothing_is_run_for_no_lines(install: Install) -> None:
    Xtables(NFT).restore("nat", [])  # there is no program


def test_the_refused_line_is_named(install: Install) -> None:
    install(
        "iptables-nft-restore",
        "cat > given; printf '%s\\n' 'iptables-nft-restore v1.8.9 (nf_tables): ' "
        "'line 3: RULE_APPEND failed (Invalid argument): rule in chain A' "
        "'line 2: CHAIN_ADD failed (No space left on device): chain A' >&2; exit 4",
    )

    with pytest.raises(Refused) as raised:
        Xtables(NFT).restore("nat", LINES)

    assert raised.value.refusals == (
        RefusedLine(1, "RULE_APPEND failed (Invalid argument): rule in chain A"),
        RefusedLine(0, "CHAIN_ADD failed (No space left on device): chain A"),
    )
    assert str(raised.value) == (
        "iptables-nft-restore: 2 lines for table nat: "
        "RULE_APPEND failed (Invalid argument): rule in chain A and 1 more"
    )


def test_a_table_that_legacy_refuses_as_a_whole_names_no_line(install: Install) -> None:
    install("iptables-legacy-restore", "echo 'iptables-restore: line 4 failed' >&2; exit 1")

    with pytest.raises(Refused, match="refused") as raised:
        Xtables(LEGACY).restore("nat", LINES)

    assert raised.value.refusals == (RefusedLine(None, "refused"),)


def test_a_held_lock_is_its_own_error(install: Install) -> None:
    install(
        "iptables-legacy-restore",
        "echo 'Another app is currently holding the xtables lock. Stopped waiting after 5s.' >&2; exit 4",
    )

    with pytest.raises(LockHeld, match="held for 5 s"):
        Xtables(LEGACY).restore("nat", LINES)


def test_warnings_of_a_program_that_succeeds_are_no_error(install: Install) -> None:
    install("iptables-nft-restore", "cat > given; echo '# Warning: line 3: failed' >&2")
    Xtables(NFT).restore("nat", LINES)


def test_what_a_killed_program_has_done_is_unknown(install: Install) -> None:
    install("iptables-nft-restore", "kill -9 $$")

    with pytest.raises(KernelError, match=f"signal {signal.SIGKILL.value}") as raised:
        Xtables(NFT).restore("nat", LINES)

    assert not isinstance(raised.value, Refused | LockHeld)


def test_what_a_program_that_does_not_end_has_done_is_unknown_and_it_is_killed(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = install("iptables-nft-restore", "echo $$ > process; exec sleep 100")
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
