"""The data planes, one directory each, and the registry that makes them.

How to add a backend: copy null/ to a new directory; write model.py (what is in the kernel, as values), render.py
(desired → model) and plan.py (model and belief → operations), which are pure and tested without a kernel; then
kernel.py (the only place that translates kernel errors) and backend.py, which wires them to the protocol in
proxy/backend.py. Add one line to FACTORIES and the name to the contract tests: the laws, the flows and the
end-to-end tests then run on it. No file under proxy/ changes; if one must, the abstraction is wrong.
"""

from collections.abc import Callable
from typing import Any, Final

from proxy.backend import Backend
from proxy.config.settings import Settings
from proxy.errors import Unsupported


def _nftables(settings: Settings) -> Backend[Any, Any]:
    from backends.nftables.backend import NftablesBackend

    return NftablesBackend.from_settings(settings)


def _ipvs(settings: Settings) -> Backend[Any, Any]:
    from backends.ipvs.backend import IpvsBackend

    return IpvsBackend.from_settings(settings)


def _iptables(settings: Settings) -> Backend[Any, Any]:
    from backends.iptables.backend import IptablesBackend

    return IptablesBackend.from_settings(settings)


def _null(_settings: Settings) -> Backend[Any, Any]:
    from backends.null.backend import NullBackend

    return NullBackend()


FACTORIES: Final[dict[str, Callable[[Settings], Backend[Any, Any]]]] = {
    "nftables": _nftables,
    "ipvs": _ipvs,
    "iptables": _iptables,
    "null": _null,
}
OWN_DEVICE: Final = "sliceproxy-ipvs"
"""The interface whose addresses are those of Services: they are not this host's."""
AUTOMATIC: Final = ("nftables",)
"""What an empty mode tries, in this order."""

LASTING: Final = ("nftables", "ipvs", "iptables")
"""Those whose work outlives the process."""


def others(mode: str) -> tuple[str, ...]:
    """Return the backends whose work is to go once this one has done all of its own; none if that does not last either."""
    return tuple([name for name in LASTING if name != mode]) if mode in LASTING else ()


def create(mode: str, settings: Settings) -> Backend[Any, Any]:
    """Make the backend of that name. It has touched nothing yet. Raises Unsupported for a name without one."""
    if mode not in FACTORIES:
        raise Unsupported(
            f"mode {mode} is not available in this version; available: {', '.join(FACTORIES)}"
        )
    return FACTORIES[mode](settings)
