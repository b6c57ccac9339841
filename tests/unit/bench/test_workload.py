"""The measured cluster is what it says: read by the daemon's own source, without a finding."""

from bench import workload
from bench.source import Changer
from proxy.cache import Cache
from proxy.desired import DesiredPort, DesiredState
from proxy.model import NodeInfo, ServiceName
from proxy.sources.events import Problems
from proxy.sources.stream import EventReader

SERVICES, ENDPOINTS = 40, 10


def described(*, has_features: bool) -> dict[int, DesiredPort]:
    """The ServicePorts of the cluster as backends are told, by number."""
    reader, cache = EventReader("", workload.NODE), Cache(NodeInfo(name=workload.NODE))
    for line in workload.initial(SERVICES, ENDPOINTS, has_features=has_features):
        events = reader.read(line)
        assert not [each for each in events if isinstance(each, Problems) and each.rejected]
        cache.apply(events, 0.0)
    desired = DesiredState()
    for name, service in cache.services.items():
        desired.update(name, service, cache.endpoints(name), cache.node)
    return {number_of(key.name.service): port for key, port in desired.ports.items()}


def number_of(name: ServiceName) -> int:
    return int(name.name.rpartition("-")[2])


def is_plain(port: DesiredPort) -> bool:
    return (
        [frontend.kind for frontend in port.frontends] == ["ClusterIP"]
        and port.affinity_timeout_s is None
        and not port.source_ranges
        and not (port.internal_local or port.external_local)
    )


def test_without_features_all_services_are_plain() -> None:
    ports = described(has_features=False)

    assert sorted(ports) == list(range(SERVICES))
    assert all(map(is_plain, ports.values()))


def test_with_features_every_tenth_service_has_all_of_them() -> None:
    ports = described(has_features=True)
    featured = [port for number, port in ports.items() if not number % 10]

    assert len(featured) == SERVICES // 10
    assert all(is_plain(port) for number, port in ports.items() if number % 10)
    for port in featured:
        kinds = [frontend.kind for frontend in port.frontends]
        assert kinds == ["ClusterIP", "NodePort", "LoadBalancer"]
        assert port.affinity_timeout_s == 10800
        assert len(port.source_ranges) == 2
        assert port.internal_local != port.external_local
        assert len(port.cluster or ()) == ENDPOINTS
        assert len(port.local or ()) == 1
        assert not port.lost
    assert {port.external_local for port in featured} == {True, False}


def test_changes_go_over_the_services_they_are_asked_for() -> None:
    command = {
        "kind": "replace",
        "count": 6,
        "services": SERVICES,
        "endpoints": ENDPOINTS,
        "width": 3,
    }

    def changed(of: str) -> list[str]:
        changer = Changer(has_features=True)
        objects = changer.objects(command | {"of": of})
        return [obj["metadata"]["labels"]["kubernetes.io/service-name"] for obj in objects]

    assert changed("all") == [f"service-{number}" for number in (0, 1, 2)] * 2
    assert changed("plain") == [f"service-{number}" for number in (1, 2, 3)] * 2
    assert changed("featured") == [f"service-{number}" for number in (0, 10, 20)] * 2
