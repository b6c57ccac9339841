"""What was measured of mode iptables is told as it was, and what is not as it has to be is marked."""

from typing import Any

import pytest

from backends.kernel.xtables_text import Flavour
from bench.iptables_tables import Changes, Found, members_in, rules_in, show


def changes(in_force_ms: float, returned_ms: float) -> dict[str, float]:
    found = Changes()
    found.add(in_force_ms, returned_ms)
    found.add_cpu({"own": 1.0, "kernel": 3.0})
    return found.summary()


def result(services: int, **differences: Any) -> dict[str, Any]:
    plain = {
        "services": services,
        "endpoints": 10,
        "start": {"wall_s": 2.0},
        "reference_start_s": 5.0,
        "rules_per_endpoint": 1.114,
        "reference_rules_per_endpoint": 3.2,
        "members_per_endpoint": 0.2,
        "ours": changes(8.0, 20.0),
        "reference": changes(80.0, 100.0),
        "connect_us": {"without a service": 15.0, "ours": 20.0, "reference": 20.0},
    }
    return plain | differences


def shown(
    capsys: pytest.CaptureFixture[str], flavour: Flavour, *results: dict[str, Any]
) -> list[str]:
    """The lines about the last of these results, in the order of the tables."""
    show(flavour, results)
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    return [line for line in lines if line.startswith(f"{results[-1]['services']} ")]


def test_everything_stands_beside_the_reference(capsys: pytest.CaptureFixture[str]) -> None:
    loaded, changed, connected = shown(capsys, Flavour.NFT, result(100))

    assert loaded == "100 2 5 2.5 × 1.114 3.200 0.200"
    assert changed == "100 8 8 80 10 × 20 20 100 5 × 4 1 × 75% 75%"
    assert connected == "100 15 1 × 20 1 × 20 1 ×"


def test_growth_of_ours_alone_is_judged(capsys: pytest.CaptureFixture[str]) -> None:
    large = result(10_000, connect_us={"without a service": 30.0, "ours": 26.2, "reference": 60.0})

    *_, connected = shown(capsys, Flavour.NFT, result(100), large)

    assert connected == "10000 30 2 × 26.2 1.31 × (!) 60 3 ×"


@pytest.mark.parametrize(
    ("flavour", "reference_ms", "is_marked"),
    [
        (Flavour.NFT, 79.0, True),
        (Flavour.NFT, 80.0, False),
        (Flavour.LEGACY, 23.0, True),
        (Flavour.LEGACY, 24.0, False),
    ],
)
def test_a_change_in_force_that_is_not_so_much_faster_is_marked(
    capsys: pytest.CaptureFixture[str], flavour: Flavour, reference_ms: float, is_marked: bool
) -> None:
    _, changed, _ = shown(capsys, flavour, result(100, reference=changes(reference_ms, 20.0)))

    assert changed.count("(!)") == is_marked


def test_too_many_rules_are_marked(capsys: pytest.CaptureFixture[str]) -> None:
    loaded, *_ = shown(capsys, Flavour.NFT, result(100, rules_per_endpoint=1.31))

    assert "1.310 (!)" in loaded


def test_figures_are_medians_and_sums_over_all_changes() -> None:
    found = Found()
    for in_force_ms, returned_ms in ((1.0, 10.0), (2.0, 30.0), (None, 20.0)):
        found.ours.add(in_force_ms, returned_ms)
    found.ours.add_cpu({"own": 6.0, "kernel": 2.0}, more_ms=1.0)
    found.ours.add_cpu({"own": 0.0, "kernel": 0.0})
    found.reference.add(1.0, 1.0)
    found.reference.add_cpu({"own": 1.0, "kernel": 0.0})
    for each in found.connects_us.values():
        each += [3.0, 1.0, 2.0]

    summary = found.summary()

    # where nothing tells when it was in force, it is when its program has ended
    assert summary["ours"] == {
        "in_force_p50_ms": 2.0,
        "in_force_p99_ms": 20.0,
        "returned_p50_ms": 20.0,
        "returned_p99_ms": 30.0,
        "cpu_ms": 3.0,
        "kernel_share": 0.25,
        "count": 3,
    }
    assert summary["connect_us"]["ours"] == 2.0


def test_rules_and_members_are_counted() -> None:
    saved = "*nat\n:A - [0:0]\n-A PREROUTING -j A\n-A A -j RETURN\nCOMMIT\n"
    sets = (
        "create ours4-a hash:ip\nadd ours4-a 10.0.0.1\nadd ours6-a fd00::1\nadd theirs 10.0.0.1\n"
    )

    assert rules_in(saved) == 2
    assert members_in(sets, "ours4-") == 1
