"""Classes of what is wrong with objects: few, and no author of objects can make more."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.model import Rejected
from proxy.rejections import CLASSES, classify, count, words


def rejected(field: str, reason: str = "no number", kind: str = "Service") -> Rejected:
    return Rejected(kind=kind, name="default/web", field=field, reason=reason)


@pytest.mark.parametrize(
    ("item", "wanted"),
    [
        (rejected("metadata.name"), "identity"),
        (rejected("metadata.labels"), "owner"),
        (rejected("apiVersion"), "version"),
        (rejected("addressType"), "family"),
        (rejected("endpoints[17].addresses[0]"), "address"),
        (rejected("endpoints[3].topology"), "obsolete"),
        (rejected("spec.externalIPs[2]"), "address"),
        (rejected("spec.loadBalancerSourceRanges[1]"), "range"),
        (rejected("spec.ports[0].nodePort"), "port"),
        (rejected("ports[0].name"), "port"),
        (rejected("ports[1]"), "port"),
        (rejected("spec.ports[1].protocol"), "protocol"),
        (rejected("spec.sessionAffinity"), "value"),
        (rejected("status.loadBalancer.ingress[4].ip"), "address"),
        (rejected("spec.ports[0].port", "expected a whole number, got text"), "type"),
        (rejected("line 7", kind="Stream"), "unreadable"),
        (rejected("somewhere.else"), "other"),
        (rejected(""), "other"),
    ],
)
def test_reasons_have_classes(item: Rejected, wanted: str) -> None:
    assert classify(item) == wanted


@given(st.builds(Rejected, kind=st.text(), name=st.text(), field=st.text(), reason=st.text()))
def test_there_are_no_other_classes(item: Rejected) -> None:
    assert classify(item) in CLASSES


@pytest.mark.parametrize(
    ("subject", "kind", "wanted"),
    [
        ("Service default/web", "Service", "Service default/web ports: no number"),
        ("File a.yaml", "Service", "File a.yaml: Service default/web ports: no number"),
        ("File a.yaml", "File", "File default/web ports: no number"),
    ],
)
def test_what_has_no_name_of_its_own_is_found_by_its_file(
    subject: str, kind: str, wanted: str
) -> None:
    assert words(subject, rejected("ports", kind=kind)) == wanted


def test_objects_are_counted_once_for_each_class() -> None:
    assert count(
        [
            (rejected("spec.ports[0].port"), rejected("spec.ports[1].port"), rejected("ports[0]")),
            (rejected("spec.ports[0].port"), rejected("metadata.name")),
            (rejected("", kind="Gadget"),),
        ]
    ) == {("Service", "port"): 2, ("Service", "identity"): 1, ("other", "other"): 1}
