"""Which tests run in the guest: the one place that says so.

`usual` is what `make e2e-ipvs` runs, in less than 12 minutes with the boot: the laws of mode ipvs, the doors to IPVS, and
one flow scenario for each feature. `everything` leaves nothing out (the laws of mode nftables on this other kernel, too) and
tries more examples (`make e2e-all`).

What runs together runs in one pytest, since starting Python is what costs most without hardware help. Emulated, one processor
does more than two, which wait for each other; only races need the second.
"""

from collections.abc import Mapping
from typing import NamedTuple

import backends

# the guest has all of these, so a test that is skipped for want of one fails
REQUIRED = (
    *("namespaces", "nftables", "iptables", "iptables-legacy", "iptables-nft", "ipset"),
    *("sctp", "ipvs", "dummy"),
)

LAWS = "e2e/test_contract.py"
DOORS = ("e2e/test_kernel_ipvs.py", "e2e/test_kernel_links.py")
LONG = (
    "e2e/test_ipvs.py",
    "e2e/test_ipvs_hostport.py",
    "e2e/test_ipvs_rollout.py",
    "e2e/test_localhost.py::test_the_node_reaches_every_endpoint_at_localhost",
    "e2e/test_mode_switch.py",
    "e2e/test_deployment.py::test_in_mode_ipvs_the_next_pod_knows_until_when_endpoints_drain",
)
RACES = ("e2e/test_race.py", "e2e/test_flow_race.py")
FLOWS = "e2e/test_flows.py"
# with the side rules for kernels without nftables; and what shows that this kernel can have all of them
BESIDE = f"{LAWS}::TestIpvsBesideIptables"
WRITTEN = (
    f"{BESIDE}::test_probing_leaves_nothing_behind",
    f"{BESIDE}::test_l1_without_services_there_is_nothing_to_do_either",
)

_MINUTE_S = 60.0
# A test that waits for ever is stopped later than elsewhere; and when the time is nearly over, no other is begun, so that
# what came of those before is told.
_TEST_LIMIT_S = 900
_LEFT_FOR_THE_REPORT_S = 90.0
_SLOWEST = 10  # tests of which the time is told
PATIENCE = "10"
"""By how much longer something may take there (tests/effort.py)."""


class Run(NamedTuple):
    """One boot: arguments of pytest, how long it may take, and how much a test tries that could go on (tests/effort.py)."""

    arguments: list[str]
    limit_s: float
    effort: str
    processors: int


def usual() -> list[Run]:
    """What fits into the time that continuous integration has."""
    return [_run(12, f"{LAWS}::TestIpvs", *WRITTEN, *DOORS, *_flows("--sample"), effort="0.05")]


def everything() -> list[Run]:
    """All that this kernel is there for."""
    return [
        _run(
            150,
            f"{LAWS}::TestIpvs",
            f"{LAWS}::TestNftables",
            *DOORS,
            *LONG,
            *_flows(),
            effort="0.5",
        ),
        _run(150, BESIDE, *_flows(backend="ipvs-iptables"), effort="0.1"),
        _run(60, *RACES, effort="0.1", processors=2),
    ]


def environment(ours: Mapping[str, str], effort: str, patience: str) -> dict[str, str]:
    """What the tests must know: that nothing of REQUIRED may be missing, how much to try, how long to wait, and whether this is CI."""
    settings = {name: ours[name] for name in ("CI", "COLUMNS") if name in ours}
    required = ",".join(REQUIRED)
    return {
        **settings,
        "E2E_REQUIRED": required,
        "TEST_EFFORT": effort,
        "TEST_PATIENCE": patience,
    }


def _run(minutes: int, *selected: str, effort: str = "1", processors: int = 1) -> Run:
    limit_s = minutes * _MINUTE_S
    limits = [
        f"--timeout={_TEST_LIMIT_S}",
        f"--session-timeout={limit_s - _LEFT_FOR_THE_REPORT_S:.0f}",
        f"--durations={_SLOWEST}",
    ]
    return Run([*limits, *selected], limit_s, effort, processors)


def _flows(*options: str, backend: str = "ipvs") -> list[str]:
    return ["--backend", backend, FLOWS, *options] if "ipvs" in backends.FACTORIES else []
