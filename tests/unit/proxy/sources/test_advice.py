"""Objects that were right once are answered with what to write now."""

import pytest

from proxy.sources.advice import Verdict, on_kind, on_version


@pytest.mark.parametrize(
    ("document", "field", "words"),
    [
        ({"kind": "Endpoints", "apiVersion": "v1"}, "", "EndpointSlice with the label"),
        ({"kind": "Endpoints"}, "", "EndpointSlice with the label"),
        ({"kind": "KubeProxyConfiguration"}, "", "--config"),
        ({"kind": "service"}, "kind", "write Service"),
        ({"kind": "Endpointslice"}, "kind", "write EndpointSlice"),
        ({"kind": "NODE"}, "kind", "write Node"),
        ({"kind": "List"}, "kind", "one level up"),
        ({"kind": ""}, "kind", "missing"),
    ],
)
def test_advice_names_field_and_remedy(
    document: dict[object, object], field: str, words: str
) -> None:
    [advice] = on_kind(str(document["kind"]), document)

    assert advice.field == field
    assert words in advice.reason


def test_obsolete_settings_in_a_configuration_are_pointed_out() -> None:
    document: dict[object, object] = {
        "kind": "KubeProxyConfiguration",
        "endpointSliceProxying": True,
    }

    assert [advice.field for advice in on_kind("KubeProxyConfiguration", document)] == [
        "",
        "endpointSliceProxying",
    ]


@pytest.mark.parametrize(
    "document", [{"kind": "Deployment"}, {"kind": "Endpoints", "apiVersion": "example.com/v1"}]
)
def test_other_kinds_need_no_advice(document: dict[object, object]) -> None:
    assert on_kind(str(document["kind"]), document) == []


def test_a_foreign_group_is_not_ours() -> None:
    assert on_version("Service", "serving.knative.dev/v1", "v1") == Verdict(
        is_ours=False, is_readable=False, advice=None
    )
    assert not on_version("EndpointSlice", "example.com/v1", "discovery.k8s.io/v1").is_ours


def test_an_old_version_of_our_group_can_be_read() -> None:
    verdict = on_version("EndpointSlice", "discovery.k8s.io/v1beta1", "discovery.k8s.io/v1")

    assert verdict.is_ours
    assert verdict.is_readable
    assert verdict.advice is not None


@pytest.mark.parametrize(
    ("kind", "version", "right"),
    [("EndpointSlice", "v1", "discovery.k8s.io/v1"), ("Service", "v2", "v1")],
)
def test_a_wrong_version_cannot_be_read(kind: str, version: str, right: str) -> None:
    verdict = on_version(kind, version, right)

    assert verdict.is_ours
    assert not verdict.is_readable
    assert verdict.advice is not None
    assert f"write {right}" in verdict.advice.reason
