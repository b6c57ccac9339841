"""The archive that the kernel starts from, read back by the kernel's description of the format."""

import lzma
from pathlib import Path

import pytest

from e2e.guest.initramfs import initramfs
from e2e.guest.kernel import Kernel

EARLY = Path(__file__).parents[4] / "e2e" / "guest" / "early.sh"


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    modules = tmp_path / "6.1.0-9-amd64"
    modules.mkdir()
    (modules / "9p.ko").write_bytes(b"nine")
    (modules / "overlay.ko.xz").write_bytes(lzma.compress(b"overlay"))
    (modules / "modules.dep").write_text("9p.ko:\noverlay.ko.xz: 9p.ko\n")
    return Kernel(tmp_path / "vmlinuz", modules)


@pytest.fixture
def entries(kernel: Kernel, tmp_path: Path) -> dict[str, tuple[int, bytes]]:
    busybox = tmp_path / "busybox"
    busybox.write_bytes(b"\x7fELF")
    return read(initramfs(kernel, busybox))


def read(archive: bytes) -> dict[str, tuple[int, bytes]]:
    """Mode and content by name, as Documentation/driver-api/early-userspace/buffer-format.rst describes them."""
    entries: dict[str, tuple[int, bytes]] = {}
    at = 0
    while True:
        assert archive[at : at + 6] == b"070701"
        mode, size, length = (int(archive[at + i : at + i + 8], 16) for i in (14, 54, 94))
        name = archive[at + 110 : at + 110 + length - 1].decode()
        content = (at + 110 + length + 3) & ~3
        if name == "TRAILER!!!":
            return entries
        entries[name] = mode, archive[content : content + size]
        at = (content + size + 3) & ~3


def test_modules_are_listed_in_the_order_in_which_they_can_be_loaded(
    entries: dict[str, tuple[int, bytes]],
) -> None:
    assert entries["modules.order"][1] == b"9p.ko\noverlay.ko.xz\n"


def test_modules_are_there_uncompressed(entries: dict[str, tuple[int, bytes]]) -> None:
    assert entries["modules/9p.ko"][1] == b"nine"
    assert entries["modules/overlay.ko.xz"][1] == b"overlay"


def test_what_is_started_can_be_started(entries: dict[str, tuple[int, bytes]]) -> None:
    assert entries["init"] == (0o100755, EARLY.read_bytes())
    assert entries["bin/busybox"] == (0o100755, b"\x7fELF")
    assert entries["proc"] == (0o040755, b"")
