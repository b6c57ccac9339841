"""What the process in the guest says is found among all that comes out of there, and told as ratios."""

import json
from typing import Any

import pytest

from bench import ipvs


def change(services: int, **figures: float) -> dict[str, Any]:
    plain = {"p50_ms": 10.0, "cpu_ms": 5.0, "ipvsadm_ms": 50.0, "ipvsadm_alone_ms": 20.0}
    return {"kind": "replace", "services": services, **(plain | figures)}


def test_the_answer_stands_among_other_lines() -> None:
    found = {"changes": [1]}
    lines = ["guest: booting\n", f"bench.ipvs: {json.dumps(found)}\n", "guest: exit status 0\n"]

    assert ipvs.parse(lines) == found


def test_a_guest_that_went_down_has_no_answer() -> None:
    assert ipvs.parse(["guest: booting\n", "… mode ipvs: 100 services\n"]) is None


def test_only_ratios_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    changes = [
        change(100),
        change(5000, p50_ms=12.0, cpu_ms=7.5, ipvsadm_ms=55.0, ipvsadm_alone_ms=24.96),
    ]

    ipvs.show({"endpoints": 4, "rounds": 8, "changes": changes})

    rows = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()[2:4]]
    assert rows[0] == "replace 100 1 × 1 × 1 × 5 × 2 ×"
    assert rows[1] == "replace 5000 1.2 × 1.5 × 1.1 × 4.58 × 2.08 ×"


def test_growth_above_the_limit_is_marked(capsys: pytest.CaptureFixture[str]) -> None:
    ipvs.show({"endpoints": 4, "rounds": 8, "changes": [change(100), change(5000, p50_ms=13.1)]})

    (row,) = [line for line in capsys.readouterr().out.splitlines() if " 5000 " in line]
    assert "1.31 × (!)" in row


def test_figures_are_medians_over_all_rounds() -> None:
    figures = ipvs.Figures()
    figures.add({"latencies_ms": [1.0, 2.0, 9.0], "cpu_ms": 6.0}, [(50.0, 5.0), (60.0, 7.0)])
    figures.add({"latencies_ms": [3.0, 4.0], "cpu_ms": 18.0}, [(70.0, 6.0)])

    assert figures.summary() == {
        "p50_ms": 3.0,
        "cpu_ms": 2.0,
        "ipvsadm_ms": 60.0,
        "ipvsadm_alone_ms": 6.0,
        "latencies_ms": [1.0, 2.0, 9.0, 3.0, 4.0],
    }
