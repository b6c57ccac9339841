"""python-iptables and the kernel, in a namespace that is thrown away."""

from pathlib import Path

import pytest

from backends.kernel.throwaway import in_throwaway_namespace
from backends.kernel.xtables_legacy import table_names
from backends.kernel.xtables_library import OTHER, try_rules

pytestmark = pytest.mark.requires("namespaces", "iptables-legacy", "python-iptables")

RULES = {
    f"-d 0.0.0.1/0.0.0.3 -g {OTHER}": True,
    "-p tcp -m statistic --mode random --probability 0.5 -j DNAT --to-destination 192.0.2.1:80": True,
    "-m mark ! --mark 0x4000/0x4000 -j RETURN": True,
    "-m conntrack --ctstate DNAT -j MASQUERADE --random-fully": True,
    "-m nothing --of-the-kind -j RETURN": False,
    "-j REJECT": False,  # which nat does not allow
    "-m set --match-set sp-none dst -j RETURN": False,
    "-j MARK --or-mark 0x4000": True,
}


def test_rules_are_tried_for_real_in_a_namespace_that_is_gone_afterwards() -> None:
    home = Path("/proc/thread-self/ns/net").readlink()

    def work() -> tuple[Path, list[str], list[int | None], list[str]]:
        here, before = Path("/proc/thread-self/ns/net").readlink(), table_names("IPv4")
        refused = try_rules({"IPv4": {"nat": list(RULES)}})["IPv4"]["nat"]
        return here, before, [each.index for each in refused], table_names("IPv4")

    here, before, refused, after = in_throwaway_namespace(work)

    assert here != home == Path("/proc/thread-self/ns/net").readlink()
    assert before == []
    assert "nat" in after
    assert refused == [at for at, is_had in enumerate(RULES.values()) if not is_had]
