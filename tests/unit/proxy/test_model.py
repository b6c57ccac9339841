"""The vocabulary: how values are printed, and what a ServicePort says of itself."""

import pytest

from proxy.model import Cause, Rejected, ServicePort
from tests.model_builders import make_endpoint, make_key, make_service_name, make_service_port


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (make_service_name("ns/svc"), "ns/svc"),
        (make_key("ns/svc", "http").name, "ns/svc:http"),
        (make_key("ns/svc", "").name, "ns/svc"),
        (make_key("ns/svc", "dns", protocol="UDP", family="IPv6"), "ns/svc:dns (UDP, IPv6)"),
        (
            Cause(kind="Service", namespace="ns", name="svc", resource_version="7"),
            "Service ns/svc@7",
        ),
        (Cause(kind="Node", namespace="", name="n1"), "Node n1"),
        (
            Rejected(
                kind="Service", name="ns/svc", field="spec.ports[0].port", reason="is no port"
            ),
            "Service ns/svc spec.ports[0].port: is no port",
        ),
        (
            Rejected(kind="File", name="a.yaml", field="", reason="is not YAML"),
            "File a.yaml: is not YAML",
        ),
    ],
)
def test_values_are_printed_for_people(value: object, text: str) -> None:
    assert str(value) == text


def test_a_port_name_knows_its_service() -> None:
    assert make_key("ns/svc", "http").name.service == make_service_name("ns/svc")


def test_ports_of_one_name_differ_by_protocol() -> None:
    assert make_key("ns/svc", "dns", protocol="UDP") != make_key("ns/svc", "dns", protocol="TCP")


def test_equal_content_makes_equal_values() -> None:
    assert make_endpoint(zone_hints=["a", "b"]) == make_endpoint(zone_hints=["b", "a"])
    assert hash(make_endpoint()) == hash(make_endpoint())


@pytest.mark.parametrize(
    ("port", "is_external"),
    [
        pytest.param(make_service_port(), False, id="only a cluster IP"),
        pytest.param(make_service_port(node_port=30080), True, id="node port"),
        pytest.param(make_service_port(external_ips=("203.0.113.1",)), True, id="external IP"),
        pytest.param(make_service_port(load_balancer_vips=("203.0.113.1",)), True, id="VIP"),
        pytest.param(make_service_port(health_check_node_port=30081), False, id="health check"),
    ],
)
def test_what_can_be_reached_from_outside(port: ServicePort, is_external: bool) -> None:
    assert port.is_external is is_external
