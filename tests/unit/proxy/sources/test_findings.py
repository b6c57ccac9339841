"""What is wrong with an object is collected under its name."""

import pytest

from proxy.model import Rejected
from proxy.sources import wire
from proxy.sources.findings import Findings, quoted


def _findings(
    name: str | None = "web", namespace: str | None = "prod", default: str = ""
) -> Findings:
    return Findings("Service", wire.Metadata(name=name, namespace=namespace), default)


def test_a_finding_names_object_field_and_reason() -> None:
    found = _findings()
    found.add("spec.type", "wrong")

    assert found.rejected() == (
        Rejected(kind="Service", name="prod/web", field="spec.type", reason="wrong"),
    )


def test_a_missing_namespace_is_filled_in() -> None:
    found = _findings(namespace=None, default="default")

    assert found.has_identity()
    assert found.namespace == "default"


@pytest.mark.parametrize(
    ("name", "namespace", "fields"),
    [
        (None, "prod", ["metadata.name"]),
        ("", "prod", ["metadata.name"]),
        ("web", None, ["metadata.namespace"]),
        (None, None, ["metadata.name", "metadata.namespace"]),
    ],
)
def test_an_object_without_identity_says_what_is_missing(
    name: str | None, namespace: str | None, fields: list[str]
) -> None:
    found = _findings(name, namespace)

    assert not found.has_identity()
    assert [rejected.field for rejected in found.rejected()] == fields


@pytest.mark.parametrize(
    ("given", "protocol"),
    [(None, "TCP"), ("", "TCP"), ("TCP", "TCP"), ("UDP", "UDP"), ("SCTP", "SCTP")],
)
def test_the_protocol_is_tcp_unless_it_says_otherwise(given: str | None, protocol: str) -> None:
    found = _findings()

    assert found.protocol(given, "protocol") == protocol
    assert found.rejected() == ()


@pytest.mark.parametrize("given", ["tcp", "ICMP", " TCP"])
def test_protocols_are_case_sensitive(given: str) -> None:
    found = _findings()

    assert found.protocol(given, "protocol") is None
    assert len(found.rejected()) == 1


@pytest.mark.parametrize("number", [1, 65535])
def test_a_port_is_a_number_that_fits_the_wire(number: int) -> None:
    found = _findings()

    assert found.port(number, "port") == number
    assert found.rejected() == ()


@pytest.mark.parametrize(
    "number", [None, 0, -1, 65536, 1 << 40, pytest.param(10**5000, id="huge")]
)
def test_any_other_number_is_no_port(number: int | None) -> None:
    found = _findings()

    assert found.port(number, "port") is None
    assert [rejected.field for rejected in found.rejected()] == ["port"]


def test_an_unknown_choice_becomes_the_first() -> None:
    found = _findings()

    assert found.choice("Local", ("Cluster", "Local"), "policy") == "Local"
    assert found.choice(None, ("Cluster", "Local"), "policy") == "Cluster"
    assert found.rejected() == ()
    assert found.choice("local", ("Cluster", "Local"), "policy") == "Cluster"
    assert "write Cluster or Local" in found.rejected()[0].reason


def test_the_number_of_findings_is_bounded_and_the_rest_counted() -> None:
    found = _findings()
    for index in range(250):
        found.add(f"ports[{index}]", "wrong")

    rejected = found.rejected()

    assert len(rejected) == 101
    assert rejected[-1].reason == "150 more parts cannot be used"


def test_quotes_are_short_and_printable() -> None:
    assert quoted("10.0.0.1") == "'10.0.0.1'"
    assert quoted("a\nb\x1b[31m\ud800") == r"'a\nb\x1b[31m\ud800'"
    assert len(quoted("x" * 10_000)) < 100
