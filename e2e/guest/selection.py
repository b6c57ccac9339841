"""Which tests run in the guest: the one place that says so.

`usual` is what continuous integration and `make e2e-ipvs` run, within LIMIT_S with the boot: the laws of every backend on
this other kernel, and one flow scenario for each feature. `everything` adds what takes longer (`make e2e-all`). All of a
selection runs in one pytest, since starting Python is what costs most without hardware help.
"""

from collections.abc import Mapping

import backends

LIMIT_S = 12 * 60.0
LIMIT_OF_EVERYTHING_S = 120 * 60.0
# the guest has all of these, so a test that is skipped for want of one fails
REQUIRED = ("namespaces", "nftables", "iptables", "sctp", "ipvs", "dummy")
# What waits too long on an emulated machine is stopped later than elsewhere.
_TEST_LIMIT_S = 600

USUAL = ("e2e/test_contract.py", "e2e/test_kernel_ipvs.py", "e2e/test_kernel_links.py")
LONG = ("e2e/test_race.py", "e2e/test_flow_race.py", "e2e/test_ipvs.py")
FLOWS = "e2e/test_flows.py"


def usual() -> list[str]:
    """Arguments of pytest for what fits into LIMIT_S."""
    return _arguments(USUAL, is_sample=True)


def everything() -> list[str]:
    """Arguments of pytest for all that this kernel is there for."""
    return _arguments((*USUAL, *LONG), is_sample=False)


def _arguments(files: tuple[str, ...], *, is_sample: bool) -> list[str]:
    arguments = [f"--timeout={_TEST_LIMIT_S}", *files]
    if "ipvs" in backends.FACTORIES:
        arguments += ["--backend", "ipvs", FLOWS, *(["--sample"] if is_sample else [])]
    return arguments


def environment(ours: Mapping[str, str]) -> dict[str, str]:
    """What the tests must know: that nothing of REQUIRED may be missing, and whether this is CI."""
    settings = {name: ours[name] for name in ("CI", "COLUMNS") if name in ours}
    return {**settings, "E2E_REQUIRED": ",".join(REQUIRED)}
