"""What is asked for is what the API documents, for the kinds and selectors that kube-proxy asks for."""

from urllib.parse import parse_qsl, urlsplit

import pytest

from proxy.sources.events import KINDS, OPTIONAL_KINDS
from proxy.sources.resources import Request, resources

SERVICES, SLICES, NODE, CIDRS = resources("node 1&x=y")


def _asked(request: Request) -> tuple[str, dict[str, str]]:
    assert request.target.isascii()
    parts = urlsplit(request.target)
    pairs = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=True)
    assert len(dict(pairs)) == len(pairs)
    return parts.path, dict(pairs)


def test_every_kind_is_asked_for_once() -> None:
    assert tuple(resource.kind for resource in resources("node-1")) == (*KINDS, *OPTIONAL_KINDS)


@pytest.mark.parametrize(
    ("resource", "path", "selectors"),
    [
        (
            SERVICES,
            "/api/v1/services",
            {
                "labelSelector": "!service.kubernetes.io/service-proxy-name",
                "fieldSelector": "spec.clusterIP!=None",
            },
        ),
        (
            SLICES,
            "/apis/discovery.k8s.io/v1/endpointslices",
            {"labelSelector": "!service.kubernetes.io/headless"},
        ),
        (NODE, "/api/v1/nodes", {"fieldSelector": "metadata.name=node 1&x=y"}),
        (CIDRS, "/apis/networking.k8s.io/v1/servicecidrs", {}),
    ],
)
def test_selectors_stand_in_every_request(
    resource: object, path: str, selectors: dict[str, str]
) -> None:
    kind = next(known for known in (SERVICES, SLICES, NODE, CIDRS) if known is resource)

    for request in (
        kind.list_request("0", 500, ""),
        kind.watch_list_request(300),
        kind.watch_request("7", 300),
    ):
        asked_path, query = _asked(request)
        assert asked_path == path
        assert selectors.items() <= query.items()


def test_a_page_is_asked_for_by_version_or_by_token() -> None:
    _, first = _asked(SLICES.list_request("0", 500, ""))
    _, next_one = _asked(SLICES.list_request("0", 500, "a+b/c=="))
    _, whole = _asked(SLICES.list_request("12", 0, ""))

    del first["labelSelector"], next_one["labelSelector"], whole["labelSelector"]
    assert first == {"limit": "500", "resourceVersion": "0"}
    assert next_one == {"limit": "500", "continue": "a+b/c=="}
    assert whole == {"resourceVersion": "12"}


def test_a_stream_of_everything_is_asked_for_as_the_api_wants_it() -> None:
    request = SLICES.watch_list_request(421)

    assert request.is_watch
    assert _asked(request)[1] == {
        "labelSelector": "!service.kubernetes.io/headless",
        "watch": "1",
        "sendInitialEvents": "true",
        "resourceVersionMatch": "NotOlderThan",
        "resourceVersion": "",
        "allowWatchBookmarks": "true",
        "timeoutSeconds": "421",
    }


def test_a_watch_goes_on_from_a_version() -> None:
    request = SLICES.watch_request("99", 300)

    assert request.is_watch
    assert not SLICES.list_request("", 0, "").is_watch
    assert _asked(request)[1] == {
        "labelSelector": "!service.kubernetes.io/headless",
        "watch": "1",
        "resourceVersion": "99",
        "allowWatchBookmarks": "true",
        "timeoutSeconds": "300",
    }


def test_only_the_ranges_of_cluster_ips_may_be_missing() -> None:
    optional = [one.kind for one in resources("n") if one.is_optional]

    assert optional == ["ServiceCIDR"]


def test_the_rule_names_what_a_role_has_to_allow() -> None:
    assert SLICES.rule == (
        '{apiGroups: ["discovery.k8s.io"], resources: [endpointslices], verbs: [list, watch]}'
    )
    assert NODE.rule == '{apiGroups: [""], resources: [nodes], verbs: [list, watch]}'
