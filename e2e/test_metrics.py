"""What Prometheus and probes get from the daemon on a node: judged by Prometheus' own linter."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e import watched
from e2e.watched import Site

_HEALTHZ_PORT = 10256
_WATCHING = 'sliceproxy_watch_phase{kind="EndpointSlice",phase="watching"} 1.0'

pytestmark = pytest.mark.requires("nftables")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with watched.site(tmp_path) as made:
        yield made


@pytest.mark.requires("promtool")
def test_prometheus_has_nothing_to_say_against_our_metrics(site: Site) -> None:
    site.start()
    site.follows()
    site.soon(lambda: _WATCHING in site.metrics(), "slices are watched")
    text = site.metrics()

    said = subprocess.run(
        ["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )

    assert (said.returncode, said.stdout, said.stderr) == (0, "", "")
    assert 'sliceproxy_mode_info{mode="nftables"} 1.0' in text


def test_probes_are_told_that_all_is_well_and_are_counted(site: Site) -> None:
    site.start()
    site.follows()

    healthz, livez = (
        json.loads(site._page(path, _HEALTHZ_PORT)) for path in ("/healthz", "/livez")
    )

    assert list(healthz) == ["lastUpdated", "currentTime", "nodeEligible", "healthy", "status"]
    assert list(livez) == ["lastUpdated", "currentTime", "healthy", "status"]
    assert (healthz["nodeEligible"], healthz["healthy"], livez["healthy"]) == (True, True, True)
    assert 'kubeproxy_proxy_healthz_total{code="200"} 1.0' in site.metrics()
