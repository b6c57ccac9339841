"""The kernel that the guest boots, as `.ci/setup --guest` has unpacked it, and which of its modules it needs to start."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

# a root out of the host's files with a layer over it, and a way to the outside
EARLY_MODULES = ("virtio_pci", "9pnet_virtio", "9p", "overlay", "virtio_console")


class GuestError(Exception):
    """The guest cannot be booted, or did not come to an end. Says what to do about it."""


class Kernel(NamedTuple):
    """An image and the directory of its modules, the one that holds modules.dep."""

    image: Path
    modules: Path


def find(unpacked: Path) -> Kernel:
    """The newest kernel under `unpacked`, the root of what Debian's package holds. Raises GuestError."""
    for modules in sorted(unpacked.glob("lib/modules/*"), key=_newest_last, reverse=True):
        image = unpacked / "boot" / f"vmlinuz-{modules.name}"
        if image.exists() and (modules / "modules.dep").exists():
            return Kernel(image, modules)
    raise GuestError(f"no kernel in {unpacked}: run .ci/setup --guest")


def _newest_last(modules: Path) -> list[int]:
    return [int(part) for part in modules.name.replace("-", ".").split(".") if part.isdigit()]


def load_order(dependencies: str, wanted: tuple[str, ...]) -> list[Path]:
    """The files of these modules and of all they need, in the order in which they can be loaded, each once.

    `dependencies` is the text of modules.dep: `file: needed needed`, where what is needed first stands last. A module
    that is not listed is built into the kernel.
    """
    needs = {
        Path(file).name.partition(".")[0].replace("-", "_"): [*reversed(needed.split()), file]
        for file, _, needed in (line.partition(":") for line in dependencies.splitlines())
    }
    return list(dict.fromkeys(_in_order(needs, wanted)))


def _in_order(needs: dict[str, list[str]], wanted: tuple[str, ...]) -> Iterator[Path]:
    for name in wanted:
        yield from map(Path, needs.get(name.replace("-", "_"), []))
