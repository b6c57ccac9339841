"""The virtual machine: boots, runs one command in this checkout, hands its output on and returns its exit status."""

import os
import select
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from e2e.guest import kernel
from e2e.guest.initramfs import initramfs
from e2e.guest.kernel import GuestError, Kernel

CHECKOUT = Path(__file__).parents[2]
UNPACKED = CHECKOUT / ".cache" / "guest"
"""Where `.ci/setup --guest` puts Debian's kernel and busybox."""

QEMU = "qemu-system-x86_64"
MEMORY = "2G"
# What costs much without hardware help and protects nothing here. `panic`: an end, instead of a machine that stands still.
_KERNEL_LINE = "console=ttyS0 quiet panic=-1 mitigations=off init_on_alloc=0 audit=0 apparmor=0"
_LATE = Path(__file__).with_name("late.sh")
_CONSOLE = "console.log"
_LINES_OF_CONSOLE = 15
_LEAVING_LIMIT_S = 10.0
# /dev/kvm of a machine that is itself virtual may be there and not work: the guest stands still with its first instruction
_KVM_UP_S = 15.0


def run(
    command: Sequence[str], environment: Mapping[str, str], limit_s: float, processors: int = 1
) -> int:
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
        deadline = time.monotonic() + limit_s
        if _has_kvm():
            if _run(arguments(booted, directory, "kvm", processors), deadline, _KVM_UP_S):
                return _status(directory)
            print("guest: /dev/kvm is there and does not work; going on emulated", flush=True)
        if not _run(arguments(booted, directory, "tcg", processors), deadline, limit_s):
            raise GuestError(f"the guest did not come up; {_console(directory)}")
        return _status(directory)


def script(command: Sequence[str], environment: Mapping[str, str]) -> str:
    """What the guest runs, for its shell."""
    settings = [shlex.quote(f"{name}={value}") for name, value in environment.items()]
    return (
        f"cd {shlex.quote(str(CHECKOUT))}\nexec env {' '.join(settings)} {shlex.join(command)}\n"
    )


def arguments(booted: Kernel, directory: Path, accelerator: str, processors: int) -> list[str]:
    """The command line of qemu. `directory` holds the initramfs and what is exchanged with the guest."""
    return [
        *(QEMU, "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"),
        *("-machine", "q35", "-cpu", "max", "-smp", str(processors), "-m", MEMORY),
        *("-accel", accelerator),
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


def _has_kvm() -> bool:
    return os.access("/dev/kvm", os.R_OK | os.W_OK)


def _run(argv: Sequence[str], deadline: float, up_within_s: float) -> bool:
    """Run qemu, its output handed on as it comes. False if the guest says nothing in the time it has to come up.

    Raises GuestError when it is up and not done by the deadline.
    """
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        try:
            if not _hand_on(process, min(deadline, time.monotonic() + up_within_s)):
                return False
            while _hand_on(process, deadline):
                pass
            if process.poll() is None and time.monotonic() > deadline:
                raise GuestError("the guest was not done in the time it had")
            process.wait(_LEAVING_LIMIT_S)
        finally:
            process.kill()
    return True


def _hand_on(process: subprocess.Popen[bytes], deadline: float) -> bool:
    """Copy what comes next to our stdout; False if the other side closed, or nothing came before the deadline."""
    source = process.stdout
    if (
        source is None
        or not select.select([source], [], [], max(0.0, deadline - time.monotonic()))[0]
    ):
        return False
    piece = os.read(source.fileno(), 1 << 16)
    sys.stdout.buffer.write(piece)
    sys.stdout.buffer.flush()
    return bool(piece)


def _status(directory: Path) -> int:
    try:
        return int((directory / "exchange" / "status").read_text())
    except (OSError, ValueError) as error:
        raise GuestError(f"the guest went down; {_console(directory)}") from error


def _console(directory: Path) -> str:
    console = directory / _CONSOLE
    said = console.read_text(errors="replace").splitlines() if console.exists() else []
    last = [f"  {line}" for line in said[-_LINES_OF_CONSOLE:]] or ["  nothing"]
    return "\n".join(["the last lines of its console:", *last])
