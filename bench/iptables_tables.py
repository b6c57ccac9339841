"""What was measured of mode iptables, and the tables that say it. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from backends.kernel.xtables_text import Flavour
from bench.table import figure, median, percentile, render

FLAT: Final = 1.3
"""What a new connection at any size may take, in those at the smallest."""
RULES: Final = 1.3
"""How many rules an endpoint may cost."""
FASTER: Final = {Flavour.NFT: 10.0, Flavour.LEGACY: 3.0}
"""By how much a change must be faster than the reference."""
CONNECTS: Final = ("without a service", "ours", "reference")


class Changes:
    """How long changes took: until they were in force, and until their program had ended; and what processors did for it."""

    def __init__(self) -> None:
        self.in_force_ms: list[float] = []
        self.returned_ms: list[float] = []
        self.cpu_ms = 0.0
        self.programs_ms = 0.0
        self.kernel_ms = 0.0

    def add(self, in_force_ms: float | None, returned_ms: float) -> None:
        """Take in one change. Where nothing tells when it was in force, it is when the program has ended."""
        self.returned_ms.append(returned_ms)
        self.in_force_ms.append(returned_ms if in_force_ms is None else in_force_ms)

    def add_cpu(self, programs_ms: Mapping[str, float], more_ms: float = 0.0) -> None:
        """Take in the processor time of programs, their own and the kernel's for them; and that of whoever started them."""
        self.programs_ms += programs_ms["own"] + programs_ms["kernel"]
        self.kernel_ms += programs_ms["kernel"]
        self.cpu_ms += programs_ms["own"] + programs_ms["kernel"] + more_ms

    def summary(self) -> dict[str, float]:
        return {
            "in_force_p50_ms": median(self.in_force_ms),
            "in_force_p99_ms": percentile(self.in_force_ms, 0.99),
            "returned_p50_ms": median(self.returned_ms),
            "returned_p99_ms": percentile(self.returned_ms, 0.99),
            "cpu_ms": self.cpu_ms / len(self.returned_ms),
            "kernel_share": self.kernel_ms / self.programs_ms,
            "count": len(self.returned_ms),
        }


@dataclass
class Found:
    """What was measured at one size."""

    ours: Changes = field(default_factory=Changes)
    reference: Changes = field(default_factory=Changes)
    connects_us: dict[str, list[float]] = field(
        default_factory=lambda: {name: [] for name in CONNECTS}
    )

    def summary(self) -> dict[str, Any]:
        return {
            "ours": self.ours.summary(),
            "reference": self.reference.summary(),
            "connect_us": {name: median(each) for name, each in self.connects_us.items()},
        }


def show(flavour: Flavour, found: Sequence[dict[str, Any]]) -> None:
    """Print what was found at each size. What is not as it has to be is marked (!)."""
    title = f"Mode iptables, {flavour}"
    print(render(f"{title}: everything at once", _LOADED, [_loaded(each) for each in found]))
    print(_ABOUT_LOADED)
    rows = [_changed(flavour, each) for each in found]
    print(render(f"{title}: one endpoint replaced", _CHANGED, rows))
    print(_ABOUT_CHANGED)
    rows = [_connected(each, found[0]) for each in found]
    print(render(f"{title}: connect() from a pod to a random service", _CONNECTED, rows))
    print(_ABOUT_CONNECTED)


_LOADED: Final = (
    "services", "start s", "(r) s", "(r)/ours", "rules an endpoint", "(r)", "set members an endpoint",
)  # fmt: skip
_ABOUT_LOADED: Final = (
    "  (r) is kube-proxy's pattern of the same services, restored in the same run. Start is ours from the start of the\n"
    "  process until all is programmed, (r) the programs alone: on the nft flavour in parts, since all at once takes minutes.\n"
)


def _loaded(each: dict[str, Any]) -> list[str]:
    ours_s, reference_s = each["start"]["wall_s"], each["reference_start_s"]
    rules = each["rules_per_endpoint"]
    return [
        str(each["services"]),
        figure(ours_s),
        figure(reference_s),
        _times(reference_s / ours_s),
        f"{rules:.3f}" + _unless(rules <= RULES),
        f"{each['reference_rules_per_endpoint']:.3f}",
        f"{each['members_per_endpoint']:.3f}",
    ]


_CHANGED: Final = (
    "services", "in force p50", "p99", "(r) p50", "(r)/ours", "returned p50", "p99", "(r) p50", "(r)/ours",
    "cpu", "(r)/ours", "kernel's share", "(r)",
)  # fmt: skip
_ABOUT_CHANGED: Final = (
    "  Milliseconds, ours from the read of the event, (r) from the start of the program. In force: new connections follow it\n"
    "  (nft: the generation of the ruleset has changed; legacy: as returned, since the exchange of the table is what comes\n"
    "  last). Returned: ours knows of it, by the word of a program that stays; the program of (r) has ended, which on nft waits\n"
    "  until no processor can be reading what was replaced, whatever the size. What has to be faster is the change in force.\n"
    "  Cpu: all processor time, ours with decoding and planning. Kernel's share: of that of the programs; on legacy it is the\n"
    "  copy of the table, on nft the check of all rules.\n"
)


def _changed(flavour: Flavour, each: dict[str, Any]) -> list[str]:
    ours, reference = each["ours"], each["reference"]
    cells = [str(each["services"])]
    for what in ("in_force", "returned"):
        p50_ms, other_ms = ours[f"{what}_p50_ms"], reference[f"{what}_p50_ms"]
        is_enough = what == "returned" or other_ms / p50_ms >= FASTER[flavour]
        cells += [
            figure(p50_ms),
            figure(ours[f"{what}_p99_ms"]),
            figure(other_ms),
            _times(other_ms / p50_ms) + _unless(is_enough),
        ]
    cells += [figure(ours["cpu_ms"]), _times(reference["cpu_ms"] / ours["cpu_ms"])]
    return [*cells, *[f"{side['kernel_share']:.0%}" for side in (ours, reference)]]


_CONNECTED: Final = ("services", *[word for name in CONNECTS for word in (f"{name} µs", "growth")])
_ABOUT_CONNECTED: Final = "  Medians. Growth is against the smallest size. Without a service: to an endpoint's own address, over the same node.\n"


def _connected(each: dict[str, Any], smallest: dict[str, Any]) -> list[str]:
    cells = [str(each["services"])]
    for name, took_us in each["connect_us"].items():
        growth = took_us / smallest["connect_us"][name]
        cells += [figure(took_us), _times(growth) + _unless(growth <= FLAT or name != "ours")]
    return cells


def _times(ratio: float) -> str:
    return f"{figure(ratio)} ×"


def _unless(is_met: bool) -> str:
    return "" if is_met else " (!)"


def rules_in(saved: str) -> int:
    """Count the rules in what `iptables-save` says."""
    return _beginning(saved.splitlines(), "-A ")


def members_in(saved: str, prefix: str) -> int:
    """Count the members in what `ipset save` says, of sets whose names begin so."""
    return _beginning(saved.splitlines(), f"add {prefix}")


def _beginning(lines: Iterable[str], prefix: str) -> int:
    return sum([line.startswith(prefix) for line in lines])
