"""What the host does with the guest, shown with a program in the place of qemu."""

import itertools
import shlex
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from e2e.guest import machine
from e2e.guest.kernel import GuestError, Kernel

# the directory that holds what is exchanged, as qemu is told it
EXCHANGE = (
    'exchange=$(printf "%s\\n" "$@" | sed -n "s/^local,id=exchange,path=\\([^,]*\\),.*/\\1/p")\n'
)

Boots = Callable[[str], None]


@pytest.fixture
def boots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Boots:
    """Puts a shell script in the place of qemu, beside a kernel and a busybox."""
    modules = tmp_path / "guest" / "lib" / "modules" / "6.1.0-9-amd64"
    modules.mkdir(parents=True)
    (modules / "modules.dep").touch()
    for name in ("boot", "bin"):
        (tmp_path / "guest" / name).mkdir()
    (tmp_path / "guest" / "boot" / "vmlinuz-6.1.0-9-amd64").touch()
    (tmp_path / "guest" / "bin" / "busybox").touch()
    monkeypatch.setattr(machine, "UNPACKED", tmp_path / "guest")
    monkeypatch.setattr(machine, "_has_kvm", lambda: False)

    def put(script: str) -> None:
        qemu = tmp_path / machine.QEMU
        qemu.write_text(f"#!/bin/sh\n{EXCHANGE}{script}\n")
        qemu.chmod(0o755)

    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return put


def values(argv: Sequence[str], option: str) -> list[str]:
    return [value for name, value in itertools.pairwise(argv) if name == option]


def test_the_output_is_handed_on_and_the_exit_status_returned(
    boots: Boots, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    boots('echo "3 passed"; echo 7 >"$exchange/status"')

    assert machine.run(["true"], {}, limit_s=10.0) == 7
    assert capfdbinary.readouterr().out == b"3 passed\n"


def test_a_guest_that_goes_down_is_reported_with_what_its_console_said(boots: Boots) -> None:
    boots('echo up; echo "Kernel panic" >"${exchange%/*}/console.log"')

    with pytest.raises(GuestError, match=r"went down.*\n  Kernel panic"):
        machine.run(["true"], {}, limit_s=10.0)


def complaint(limit_s: float) -> str:
    with pytest.raises(GuestError) as raised:
        machine.run(["true"], {}, limit_s=limit_s)
    return str(raised.value)


def test_a_guest_that_is_not_done_in_time_is_ended(boots: Boots) -> None:
    boots("echo up; exec sleep 600")

    # where programs start slowly it needs more time to come up
    complaints = (complaint(limit_s) for limit_s in (0.5, 5.0, 60.0))
    assert any("not done in the time it had" in each for each in complaints)


def test_a_guest_that_never_says_a_word_did_not_come_up(boots: Boots) -> None:
    boots("exec sleep 60")

    with pytest.raises(GuestError, match="did not come up"):
        machine.run(["true"], {}, limit_s=0.5)


def test_where_hardware_help_stands_still_the_guest_is_emulated(
    boots: Boots, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "_has_kvm", lambda: True)
    monkeypatch.setattr(machine, "_KVM_UP_S", 0.2)
    boots('case "$*" in *"-accel kvm"*) exec sleep 60;; esac; echo up; echo 0 >"$exchange/status"')

    assert machine.run(["true"], {}, limit_s=10.0) == 0


def test_without_qemu_the_way_out_is_named(
    boots: Boots, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boots("true")
    monkeypatch.setenv("PATH", str(tmp_path / "guest"))

    with pytest.raises(GuestError, match=r"not installed: run \.ci/setup --guest as root"):
        machine.run(["true"], {}, limit_s=1.0)


def test_words_and_settings_reach_the_command_as_they_are() -> None:
    text = machine.script(["sh", "-c", 'echo $A; echo "$1"', "_", "it's"], {"A": "b c"})

    done = subprocess.run(["sh"], input=text, capture_output=True, text=True, check=True)

    assert done.stdout == "b c\nit's\n"
    assert shlex.split(text)[:2] == ["cd", str(machine.CHECKOUT)]


def test_the_host_is_shared_read_only_and_the_exchange_is_not(tmp_path: Path) -> None:
    argv = machine.arguments(
        Kernel(tmp_path, tmp_path / "a,b" / "6.1"), tmp_path, "tcg", processors=2
    )

    shared = {each.split(",")[1]: each for each in values(argv, "-fsdev")}
    assert ",readonly=on" in shared["id=root"]
    assert ",readonly=on" in shared["id=modules"]
    assert f"path={tmp_path}/a,,b," in shared["id=modules"]
    assert f"path={tmp_path}/exchange," in shared["id=exchange"]
    assert ",readonly=off" in shared["id=exchange"]


def test_the_machine_is_made_as_asked_for(tmp_path: Path) -> None:
    argv = machine.arguments(Kernel(tmp_path / "vmlinuz", tmp_path), tmp_path, "tcg", processors=2)

    assert values(argv, "-accel") == ["tcg"]
    assert values(argv, "-smp") == ["2"]
    assert values(argv, "-kernel") == [str(tmp_path / "vmlinuz")]
