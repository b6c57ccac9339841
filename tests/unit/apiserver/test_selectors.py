"""Selectors: each form of the grammar, and what is none."""

import pytest

from tests.apiserver import selectors
from tests.apiserver.resources import NODES, SERVICES, Resource
from tests.apiserver.status import ApiStatusError

LABELS = {"app": "web", "tier": "1", "example.com/part": ""}


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ("", True),
        ("app", True),
        ("!app", False),
        ("!absent", True),
        ("absent", False),
        ("app=web", True),
        ("app==web", True),
        ("app=other", False),
        ("app!=web", False),
        ("app!=other", True),
        ("absent!=web", True),
        ("absent=", False),
        ("example.com/part=", True),
        ("app in (web, other)", True),
        ("app in (other)", False),
        ("app notin (web)", False),
        ("absent notin (web)", True),
        ("tier>0", True),
        ("tier<1", False),
        ("app>0", False),
        ("app=web,tier=1", True),
        ("app=web,tier=2", False),
        ("app in (a,web),!absent", True),
        ("!service.kubernetes.io/headless", True),
    ],
)
def test_a_label_selector_selects(selector: str, expected: bool) -> None:
    assert selectors.parse(SERVICES, selector, "").matches(LABELS, {}) is expected


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ("", True),
        ("metadata.name=web", True),
        ("metadata.name!=web", False),
        ("metadata.namespace==shop,spec.type=ClusterIP", True),
        ("spec.clusterIP!=None", True),
        ("spec.clusterIP=None", False),
    ],
)
def test_a_field_selector_selects(selector: str, expected: bool) -> None:
    service = {
        "metadata": {"name": "web", "namespace": "shop"},
        "spec": {"type": "ClusterIP", "clusterIP": "10.0.0.1"},
    }

    parsed = selectors.parse(SERVICES, "", selector)

    assert parsed.matches({}, SERVICES.selectable(service)) is expected


@pytest.mark.parametrize(
    ("resource", "labels", "fields"),
    [
        (SERVICES, "a=b=c", ""),
        (SERVICES, "a in b", ""),
        (SERVICES, "-a", ""),
        (SERVICES, "", "spec.clusterIP"),
        (SERVICES, "", "spec.ports=80"),
        (NODES, "", "spec.clusterIP!=None"),
    ],
)
def test_what_is_no_selector_is_a_bad_request(
    resource: Resource, labels: str, fields: str
) -> None:
    with pytest.raises(ApiStatusError) as raised:
        selectors.parse(resource, labels, fields)

    assert raised.value.code == 400
