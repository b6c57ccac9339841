"""The virtual machine: boots, runs one command in this checkout, hands its output on and returns its exit status."""

import os
import selectors
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from e2e.guest import kernel
from e2e.guest.initramfs import initramfs
from e2e.guest.kernel import GuestError, Kernel

CHECKOUT = Path(__file__).parents[2]
UNPACKED = CHECKOUT / ".cache" / "guest"
"""Where `.ci/setup --guest` puts Debian's kernel and busybox."""

QEMU = "qemu-system-x86_64"
MEMORY = "2G"
CPUS = 2
# What costs much without hardware help and protects nothing here. `panic`: an end, instead of a machine that stands still.
_KERNEL_LINE = "console=ttyS0 quiet panic=-1 mitigations=off init_on_alloc=0 audit=0 apparmor=0"
_LATE = Path(__file__).with_name("late.sh")
_CONSOLE = "console.log"
_LINES_OF_CONSOLE = 15
_LEAVING_LIMIT_S = 10.0


def run(command: Sequence[str], environment: Mapping[str, str], limit_s: float) -> int:
    """Boot, run the command as root in the checkout, print what it prints, switch off; its exit status.

    Raises GuestError if something is missing here, if it takes longer than `limit_s`, or if the guest goes down
    before the command ends.
    """
    if not shutil.which(QEMU):
        raise GuestError(f"{QEMU} is not installed: run .ci/setup --guest as root")
    booted = kernel.find(UNPACKED)
    with tempfile.TemporaryDirectory(prefix="sliceproxy-guest-") as made:
        directory = Path(made)
        exchange = directory / "exchange"
        exchange.mkdir()
        shutil.copy(_LATE, exchange)
        (exchange / "command.sh").write_text(script(command, environment))
        (directory / "initramfs").write_bytes(initramfs(booted, UNPACKED / "bin" / "busybox"))
        _run(arguments(booted, directory, has_kvm=os.access("/dev/kvm", os.R_OK | os.W_OK)), limit_s)
        return _status(directory)


def script(command: Sequence[str], environment: Mapping[str, str]) -> str:
    """What the guest runs, for its shell."""
    settings = [shlex.quote(f"{name}={value}") for name, value in environment.items()]
    return f"cd {shlex.quote(str(CHECKOUT))}\nexec env {' '.join(settings)} {shlex.join(command)}\n"


def arguments(booted: Kernel, directory: Path, *, has_kvm: bool) -> list[str]:
    """The command line of qemu. `directory` holds the initramfs and what is exchanged with the guest."""
    return [
        *(QEMU, "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"),
        *("-machine", "q35", "-cpu", "max", "-smp", str(CPUS), "-m", MEMORY),
        *(["-accel", "kvm"] if has_kvm else []),
        *("-accel", "tcg"),
        *("-kernel", str(booted.image), "-initrd", str(directory / "initramfs")),
        *("-append", _KERNEL_LINE),
        *("-serial", f"file:{_quoted(directory / _CONSOLE)}"),
        *("-device", "virtio-rng-pci", "-device", "virtio-serial-pci"),
        *("-chardev", "file,id=out,path=/dev/stdout", "-device", "virtserialport,chardev=out"),
        *_shared("root", Path("/"), "readonly=on,multidevs=remap"),
        *_shared("modules", booted.modules.parent, "readonly=on"),
        *_shared("exchange", directory / "exchange", "readonly=off"),
    ]


def _shared(name: str, path: Path, options: str) -> list[str]:
    where = f"local,id={name},path={_quoted(path)},security_model=none,{options}"
    return ["-fsdev", where, "-device", f"virtio-9p-pci,fsdev={name},mount_tag={name}"]


def _quoted(path: Path) -> str:
    return str(path).replace(",", ",,")


def _run(argv: Sequence[str], limit_s: float) -> None:
    """Run qemu, its output handed on as it comes. Raises GuestError when the time is over."""
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        try:
            if process.stdout is None or not _hand_on(process.stdout, time.monotonic() + limit_s):
                raise GuestError(f"the guest was not done within {limit_s / 60:.0f} minutes")
            process.wait(_LEAVING_LIMIT_S)
        finally:
            process.kill()


def _hand_on(source: IO[bytes], deadline: float) -> bool:
    """Copy to our stdout until the other side closes, or the deadline passes: then False."""
    with selectors.DefaultSelector() as selector:
        selector.register(source, selectors.EVENT_READ)
        while selector.select(max(0.0, deadline - time.monotonic())):
            if not (piece := os.read(source.fileno(), 1 << 16)):
                return True
            sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()
    return False


def _status(directory: Path) -> int:
    try:
        return int((directory / "exchange" / "status").read_text())
    except (OSError, ValueError) as error:
        console = directory / _CONSOLE
        said = console.read_text(errors="replace").splitlines() if console.exists() else []
        last = "\n".join(f"  {line}" for line in said[-_LINES_OF_CONSOLE:])
        raise GuestError(f"the guest went down; the last lines of its console:\n{last}") from error
