"""The two flavours of iptables on a host under test, and what of a mode is tested once for each of them."""

from collections.abc import Mapping
from typing import Final

from backends.kernel.xtables_text import Flavour
from e2e.namespace import Namespace

_HINT: Final = "KUBE-IPTABLES-HINT"
_MODE: Final = "iptables"
VARIANTS: Final[Mapping[str, Flavour]] = {f"{_MODE}-{flavour}": flavour for flavour in Flavour}
"""The flavours by the name under which mode iptables is tested, which is that of the capability needed, too."""
_BESIDE: Final = "ipvs-iptables"
BESIDE: Final[Mapping[str, Flavour]] = {f"{_BESIDE}-{flavour}": flavour for flavour in Flavour}
"""Mode ipvs with the side rules that it has where there is no nftables."""
FLAVOURS: Final[Mapping[str, Flavour]] = {**VARIANTS, **BESIDE}


def mode_of(variant: str) -> str:
    """The mode that a backend is, or of which it is a variant."""
    return _MODE if variant in VARIANTS else "ipvs" if variant in BESIDE else variant


def variants_of(backend: str) -> tuple[str, ...]:
    """Under which names a mode is tested; a variant alone under its own."""
    if backend == _BESIDE:
        return tuple(BESIDE)
    return tuple(VARIANTS) if backend == _MODE else (backend,)


def needs_of(variant: str) -> tuple[str, ...]:
    """The capabilities that a backend needs, or a variant of one."""
    if variant in BESIDE:
        return "ipvs", f"{_MODE}-{BESIDE[variant]}", "ipset"
    return (variant, "ipset") if variant in VARIANTS else (variant,)


def have_kubelet_use(namespace: Namespace, flavour: Flavour) -> None:
    """Leave there what kubelet leaves: a chain that tells others which flavour to use."""
    _restore(namespace, flavour, f":{_HINT} - [0:0]")


def have_kubelet_leave(namespace: Namespace, flavour: Flavour) -> None:
    """Take it away again."""
    _restore(namespace, flavour, f":{_HINT} - [0:0]", f"-X {_HINT}")


def _restore(namespace: Namespace, flavour: Flavour, *lines: str) -> None:
    text = "\n".join(["*mangle", *lines, "COMMIT", ""])
    for stem in ("iptables", "ip6tables"):
        namespace.run([f"{stem}-{flavour}-restore", "--noflush"], stdin=text)
