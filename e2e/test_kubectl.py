"""kubectl against the stand-in API server: what an operator's own tool sees and does there."""

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from e2e.manifests import until
from tests.apiserver.process import StandIn
from tests.builders import ABSENT, make_service, make_slice

pytestmark = pytest.mark.requires("kubectl")

Kubectl = Callable[..., str]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[StandIn]:
    with StandIn(tmp_path / "api") as started:
        started.put(make_service("a"), make_slice("a-1", service="a"))
        yield started


def command(server: StandIn, *arguments: str) -> list[str]:
    # as it is told on the command line: nothing is cached at home
    cache = server.kubeconfig.with_name("cache")
    own = ["--kubeconfig", str(server.kubeconfig), "--cache-dir", str(cache)]
    return ["kubectl", *own, "--server", server.url, *arguments]


def kubectl(server: StandIn, *arguments: str, stdin: str = "") -> str:
    argv = command(server, *arguments)
    done = subprocess.run(argv, input=stdin, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def manifest(name: str, **metadata: object) -> str:
    own = {"resourceVersion": ABSENT, "uid": ABSENT, **metadata}
    return json.dumps(make_service(name, metadata=own))


def test_objects_are_shown_in_columns_and_as_they_are(server: StandIn) -> None:
    header, row = kubectl(server, "get", "svc").splitlines()
    assert header.split() == ["NAME", "TYPE", "CLUSTER-IP", "EXTERNAL-IP", "PORT(S)", "AGE"]
    assert row.split()[:5] == ["a", "ClusterIP", "10.96.0.10", "<none>", "80/TCP"]
    assert "10.244.1.5" in kubectl(server, "get", "endpointslices", "--all-namespaces")
    shown = json.loads(kubectl(server, "get", "service", "a", "-o", "json"))
    assert (shown["kind"], shown["spec"]["clusterIP"]) == ("Service", "10.96.0.10")


def test_objects_are_created_applied_patched_and_deleted(server: StandIn) -> None:
    def apply(text: str) -> str:
        return kubectl(server, "apply", "--validate=false", "-f", "-", stdin=text)

    assert "created" in kubectl(
        server, "create", "--validate=false", "-f", "-", stdin=manifest("b")
    )
    assert "created" in apply(manifest("c"))
    assert "unchanged" in apply(manifest("c"))
    assert "configured" in apply(manifest("c").replace('"port": 80', '"port": 81'))
    kubectl(server, "patch", "service", "c", "-p", '{"metadata": {"labels": {"x": "y"}}}')
    selected = kubectl(server, "get", "service", "-l", "x=y", "-o", "name")
    assert selected.split() == ["service/c"]
    assert "81/TCP" in kubectl(server, "get", "service", "c")
    assert "deleted" in kubectl(server, "delete", "service", "c")
    names = kubectl(server, "get", "services", "-o", "name").split()
    assert names == ["service/a", "service/b"]


def test_changes_are_followed(server: StandIn, tmp_path: Path) -> None:
    log = tmp_path / "watched"
    argv = command(server, "get", "services", "--watch", "--output", "name")
    with log.open("w") as output, subprocess.Popen(argv, stdout=output) as watching:
        until(lambda: log.read_text().split() == ["service/a"], "kubectl lists")
        server.put(make_service("d"))
        until(lambda: log.read_text().split() == ["service/a", "service/d"], "kubectl follows")
        watching.kill()
