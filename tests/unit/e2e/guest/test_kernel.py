"""Which kernel is booted, and which modules it must be given to reach its files."""

from pathlib import Path

import pytest

from e2e.guest.kernel import GuestError, find, load_order

# as depmod writes it: what has to be loaded first stands last
DEPENDENCIES = """\
kernel/fs/9p/9p.ko: kernel/net/9p/9pnet.ko kernel/fs/fscache/fscache.ko kernel/fs/netfs/netfs.ko
kernel/net/9p/9pnet_virtio.ko.xz: kernel/net/9p/9pnet.ko kernel/drivers/virtio/virtio.ko
kernel/drivers/virtio/virtio.ko:
"""


def unpacked(root: Path, *releases: str) -> Path:
    for release in releases:
        modules = root / "lib" / "modules" / release
        modules.mkdir(parents=True)
        (modules / "modules.dep").touch()
        (root / "boot").mkdir(exist_ok=True)
        (root / "boot" / f"vmlinuz-{release}").touch()
    return root


def test_of_several_kernels_the_newest_is_booted(tmp_path: Path) -> None:
    root = unpacked(tmp_path, "6.1.0-9-amd64", "6.1.0-56-amd64", "5.10.0-99-amd64")

    found = find(root)

    assert found.image.name == "vmlinuz-6.1.0-56-amd64"
    assert found.modules.name == "6.1.0-56-amd64"


@pytest.mark.parametrize(
    "lost", ["boot/vmlinuz-6.1.0-9-amd64", "lib/modules/6.1.0-9-amd64/modules.dep"]
)
def test_a_kernel_that_is_only_half_there_is_not_booted(tmp_path: Path, lost: str) -> None:
    (unpacked(tmp_path, "6.1.0-9-amd64") / lost).unlink()

    with pytest.raises(GuestError, match=r"no kernel in .*: run \.ci/setup --guest"):
        find(tmp_path)


def test_a_module_is_loaded_once_and_after_all_that_it_needs() -> None:
    order = [file.name for file in load_order(DEPENDENCIES, ("9pnet_virtio", "9p"))]

    assert order == [
        "virtio.ko",
        "9pnet.ko",
        "9pnet_virtio.ko.xz",
        "netfs.ko",
        "fscache.ko",
        "9p.ko",
    ]


def test_a_module_that_is_not_listed_is_built_in() -> None:
    assert load_order(DEPENDENCIES, ("overlay", "virtio")) == [
        Path("kernel/drivers/virtio/virtio.ko")
    ]


def test_the_two_ways_to_write_a_name_mean_one_module() -> None:
    assert load_order("kernel/a-b.ko:\n", ("a_b",)) == [Path("kernel/a-b.ko")]
