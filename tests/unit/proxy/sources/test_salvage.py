"""One field of the wrong type costs as little of its object as it can."""

from typing import Any

import pytest

from proxy.sources import salvage, wire
from proxy.sources.salvage import Misfit
from tests.builders import make_endpoint, make_node, make_service, make_slice


def _service(document: dict[str, Any]) -> tuple[wire.ServiceSpec, list[Misfit]]:
    service, misfits = salvage.fit(document, wire.Service)
    assert service is not None
    assert service.spec is not None
    return service.spec, misfits


def _endpoints(*endpoints: Any) -> tuple[list[wire.Endpoint | None], list[Misfit]]:
    found, misfits = salvage.fit(make_slice(endpoints=list(endpoints)), wire.EndpointSlice)
    assert found is not None
    return found.endpoints or [], misfits


def test_a_sound_object_is_kept_whole() -> None:
    service, misfits = salvage.fit(make_service(), wire.Service)

    assert misfits == []
    assert service is not None
    assert service.metadata is not None
    assert service.metadata.name == "web"


def test_an_ordinary_field_reads_as_absent() -> None:
    spec, misfits = _service(make_service(sessionAffinity=5, healthCheckNodePort="30000"))

    assert spec.session_affinity is None
    assert spec.health_check_node_port is None
    assert spec.type == "ClusterIP"
    assert misfits == [
        Misfit("spec.sessionAffinity", "expected text, got a number"),
        Misfit("spec.healthCheckNodePort", "expected a whole number, got text"),
    ]


def test_strings_in_lists_keep_their_positions() -> None:
    spec, misfits = _service(make_service(clusterIPs=[7, "fd00::1"], ipFamilies=["IPv4", "IPv6"]))

    assert spec.cluster_ips == ["", "fd00::1"]
    assert misfits == [Misfit("spec.clusterIPs[0]", "expected text, got a number")]


@pytest.mark.parametrize(
    ("port", "misfit"),
    [
        ({"port": "80"}, Misfit("spec.ports[0].port", "expected a whole number, got text")),
        ({"name": 5, "port": 80}, Misfit("spec.ports[0].name", "expected text, got a number")),
        (
            {"protocol": [], "port": 80},
            Misfit("spec.ports[0].protocol", "expected text, got a list"),
        ),
        ("80", Misfit("spec.ports[0]", "expected an object, got text")),
    ],
)
def test_a_port_with_a_vital_misfit_goes_and_its_neighbour_stays(
    port: Any, misfit: Misfit
) -> None:
    spec, misfits = _service(make_service(ports=[port, {"port": 443}]))

    assert spec.ports == [None, wire.ServicePort(port=443)]
    assert misfits == [misfit]


def test_a_port_outlives_a_misfit_that_is_not_vital() -> None:
    spec, misfits = _service(make_service(ports=[{"port": 80, "nodePort": "30080"}]))

    assert spec.ports == [wire.ServicePort(port=80)]
    assert misfits == [Misfit("spec.ports[0].nodePort", "expected a whole number, got text")]


def test_an_endpoint_whose_readiness_cannot_be_read_is_not_taken_for_ready() -> None:
    broken = make_endpoint("10.0.0.1", conditions={"ready": "false"})

    endpoints, misfits = _endpoints(broken, make_endpoint("10.0.0.2"))

    assert endpoints[0] is None
    assert endpoints[1] is not None
    assert misfits == [Misfit("endpoints[0].conditions.ready", "expected true or false, got text")]


def test_an_endpoint_outlives_a_zone_that_cannot_be_read() -> None:
    endpoints, misfits = _endpoints(make_endpoint("10.0.0.1", zone=None) | {"zone": 1})

    assert endpoints[0] is not None
    assert endpoints[0].addresses == ["10.0.0.1"]
    assert endpoints[0].zone is None
    assert misfits == [Misfit("endpoints[0].zone", "expected text, got a number")]


def test_a_number_is_no_truth_value_and_the_reverse() -> None:
    endpoints, misfits = _endpoints(make_endpoint(conditions={"serving": 1}))
    spec, more_misfits = _service(make_service(healthCheckNodePort=True))

    assert endpoints == [None]
    assert spec.health_check_node_port is None
    assert [misfit.reason for misfit in misfits + more_misfits] == [
        "expected true or false, got a number",
        "expected a whole number, got true or false",
    ]


def test_a_firewall_that_cannot_be_read_closes_the_service() -> None:
    service, misfits = salvage.fit(
        make_service(loadBalancerSourceRanges="10.0.0.0/8"), wire.Service
    )

    assert service is not None
    assert service.spec is None
    assert misfits == [Misfit("spec.loadBalancerSourceRanges", "expected a list, got text")]


@pytest.mark.parametrize(
    "metadata",
    [
        {"name": 1},
        {"namespace": []},
        {"labels": "web"},
        {"labels": {"service.kubernetes.io/headless": {}}},
    ],
)
def test_an_object_without_a_readable_identity_goes(metadata: dict[str, object]) -> None:
    found, misfits = salvage.fit(make_slice(metadata=metadata), wire.EndpointSlice)

    assert found is None
    assert len(misfits) == 1
    assert misfits[0].field.startswith("metadata.")


def test_a_node_outlives_labels_that_cannot_be_read() -> None:
    node, misfits = salvage.fit(make_node(labels={"topology.kubernetes.io/zone": 1}), wire.Node)

    assert node is not None
    assert node.status is not None
    assert misfits == [
        Misfit("metadata.labels.topology.kubernetes.io/zone", "expected text, got a number")
    ]


def test_keys_that_are_no_text_are_ignored() -> None:
    document: dict[Any, Any] = make_service()
    document["spec"] |= {True: 1, 5: None}

    service, misfits = salvage.fit(document, wire.Service)

    assert service is not None
    assert misfits == []


def test_the_number_of_misfits_is_bounded() -> None:
    document = make_slice(endpoints=["10.0.0.1"] * 5000)
    document["endpoints"] = [{"addresses": 5}] * 5000

    _, misfits = salvage.fit(document, wire.EndpointSlice)

    assert len(misfits) == 100
