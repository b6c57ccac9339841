"""The data planes, one directory each, and the registry that makes them.

How to add a backend: copy null/ to a new directory; write model.py (what is in the kernel, as values), render.py
(desired → model) and plan.py (model and belief → operations), which are pure and tested without a kernel; then
kernel.py (which talks to the kernel) and backend.py, which wires them to the protocol in proxy/backend.py. Name it in
FACTORIES, in what else of the lists here it belongs to, in proxy/config/modes.py and in the contract tests: the laws, the
flows and the end-to-end tests then run on it. If anything else under proxy/ must change, the abstraction is wrong.
"""

from collections.abc import Callable
from typing import Any, Final

from backends.kernel import links
from proxy.backend import Backend
from proxy.config.settings import Settings
from proxy.errors import Unsupported
from proxy.listeners import Listeners

Make = Callable[[Settings, Listeners | None], Backend[Any, Any]]


def _nftables(settings: Settings, _listeners: Listeners | None) -> Backend[Any, Any]:
    from backends.nftables.backend import NftablesBackend

    return NftablesBackend.from_settings(settings)


def _ipvs(settings: Settings, _listeners: Listeners | None) -> Backend[Any, Any]:
    from backends.ipvs.backend import IpvsBackend

    return IpvsBackend.from_settings(settings)


def _iptables(settings: Settings, _listeners: Listeners | None) -> Backend[Any, Any]:
    from backends.iptables.backend import IptablesBackend

    return IptablesBackend.from_settings(settings)


def _userspace(settings: Settings, listeners: Listeners | None) -> Backend[Any, Any]:
    from backends.userspace.backend import UserspaceBackend

    return UserspaceBackend.from_settings(settings, listeners)


def _null(_settings: Settings, _listeners: Listeners | None) -> Backend[Any, Any]:
    from backends.null.backend import NullBackend

    return NullBackend()


FACTORIES: Final[dict[str, Make]] = {
    "nftables": _nftables,
    "ipvs": _ipvs,
    "iptables": _iptables,
    "userspace": _userspace,
    "null": _null,
}
OWN_DEVICE: Final = links.OWN_DEVICE
"""The interface whose addresses are those of Services: they are not this host's."""
AUTOMATIC: Final = ("nftables", "ipvs", "iptables", "userspace")
"""What an empty mode tries, in this order."""

WITHOUT_TRACKING: Final = ("userspace",)
"""Those that need nothing of the kernel's connection tracking."""

WITHOUT_LOCALHOST: Final = ("nftables", "ipvs")
"""Those that leave NodePorts at localhost to a listener beside them."""

LASTING: Final = AUTOMATIC
"""Those whose work outlives the process."""


def others(mode: str) -> tuple[str, ...]:
    """Return the backends whose work is to go once this one has done all of its own; none if that does not last either."""
    return tuple([name for name in LASTING if name != mode]) if mode in LASTING else ()


def create(mode: str, settings: Settings, listeners: Listeners | None = None) -> Backend[Any, Any]:
    """Make the backend of that name. It has touched nothing yet. Raises Unsupported for a name without one.

    `listeners` has what the process before has listened on, for whoever listens.
    """
    if mode not in FACTORIES:
        raise Unsupported(
            f"mode {mode} is not available in this version; available: {', '.join(FACTORIES)}"
        )
    return FACTORIES[mode](settings, listeners)
