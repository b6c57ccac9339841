"""The first files of the guest, as the kernel unpacks them: a cpio archive in the format `newc`."""

import lzma
import stat
from pathlib import Path

from e2e.guest.kernel import EARLY_MODULES, Kernel, load_order

_DIRECTORIES = ("bin", "proc", "host", "layer", "modules")
_EARLY = Path(__file__).with_name("early.sh")


def initramfs(kernel: Kernel, busybox: Path) -> bytes:
    """Busybox, the modules without which no other file can be reached, and the script that loads them."""
    files = load_order((kernel.modules / "modules.dep").read_text(), EARLY_MODULES)
    order = "".join(f"{file.name}\n" for file in files)
    entries = [_entry(directory, stat.S_IFDIR | 0o755, b"") for directory in _DIRECTORIES]
    entries += [
        _entry("bin/busybox", stat.S_IFREG | 0o755, busybox.read_bytes()),
        _entry("init", stat.S_IFREG | 0o755, _EARLY.read_bytes()),
        _entry("modules.order", stat.S_IFREG | 0o644, order.encode()),
    ]
    entries += [
        _entry(f"modules/{file.name}", stat.S_IFREG | 0o644, _module(kernel.modules / file))
        for file in files
    ]
    return b"".join([*entries, _entry("TRAILER!!!", 0, b"")])


def _module(file: Path) -> bytes:
    # Debian compresses modules from version 13 on
    return lzma.decompress(file.read_bytes()) if file.suffix == ".xz" else file.read_bytes()


def _entry(name: str, mode: int, data: bytes) -> bytes:
    """One file: thirteen numbers, the name, the content, each part padded to four bytes."""
    path = name.encode() + b"\0"
    # inode, mode, owner, group, links, time, size, device of the file (2) and in it (2), length of the name, checksum
    numbers = (0, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(path), 0)
    head = b"070701" + b"".join(b"%08X" % number for number in numbers) + path
    return _padded(head) + _padded(data)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
