"""Feature gates never stop the start; each that decides nothing says what is true instead."""

import pytest

from proxy.config import gates


def _advice(name: str, *, value: bool = True) -> str:
    [(gate, advice)] = gates.warnings({name: value})
    assert gate == name
    return advice


def test_the_gate_that_is_read_gives_no_warning() -> None:
    assert list(gates.warnings({"AllowServiceExternalIPs": False})) == []


@pytest.mark.parametrize(
    ("name", "truth"),
    [
        ("EndpointSliceProxying", "EndpointSlices are always used"),
        ("endpointSliceProxying", "EndpointSlices are always used"),
        ("ServiceTopology", "spec.trafficDistribution"),
        ("TopologyAwareHints", "spec.trafficDistribution"),
        ("ProxyTerminatingEndpoints", "last resort"),
        ("IPv6DualStack", "both address families"),
        ("NFTablesProxyMode", "mode nftables needs no gate"),
        ("WinDSR", "Linux only"),
    ],
)
@pytest.mark.parametrize("value", [True, False])
def test_a_settled_gate_says_what_is_true_instead(name: str, truth: str, value: bool) -> None:
    advice = _advice(name, value=value)

    assert advice.startswith("has no effect: ")
    assert truth in advice
    assert advice.endswith("; delete the gate")


def test_an_unknown_gate_is_named() -> None:
    assert _advice("Nonsense") == "unknown feature gate, ignored; delete it"


def test_a_gate_in_the_wrong_case_is_corrected() -> None:
    assert (
        _advice("allowServiceExternalIPs")
        == "unknown feature gate, ignored; did you mean AllowServiceExternalIPs?"
    )


def test_warnings_come_in_the_order_of_names() -> None:
    assert [name for name, _ in gates.warnings({"Zz": True, "Aa": True, "AllAlpha": True})] == [
        "Aa",
        "AllAlpha",
        "Zz",
    ]


def test_no_gate_is_both_read_and_settled() -> None:
    assert not set(gates.DEFAULTS) & set(gates.SETTLED)
    assert set(gates.MEANINGS) == set(gates.DEFAULTS)
