"""What is told of a comparison."""

import pytest

from bench import forwarder

NAMES = ("bulk one (Gb/s)", "latency p50 (us)")


def test_latency_is_what_is_added_to_the_direct_way(capsys: pytest.CaptureFixture[str]) -> None:
    forwarder.show(
        {
            "sliceproxy": dict(zip(NAMES, (12.0, 30.0), strict=True)),
            "haproxy": dict(zip(NAMES, (10.0, 20.0), strict=True)),
            "direct": dict(zip(NAMES, (40.0, 10.0), strict=True)),
        }
    )

    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[2][-4:] == ["12", "10", "1.2", "40"]
    assert lines[3][:2] == ["added", "latency"]
    assert lines[3][-4:] == ["20", "10", "2", "10"]


def test_nothing_is_measured_without_haproxy(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")

    assert forwarder.measure() is None
    assert "haproxy is not installed" in capsys.readouterr().out
