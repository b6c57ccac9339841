"""Explanations for people: the text of a service, and colours only where they are wanted."""

import re
import textwrap

import pytest

from proxy import explain, explain_text
from proxy.cache import Cache
from proxy.model import EndpointSlice, NodeInfo, Service
from proxy.sources.events import Upsert
from tests.model_builders import (
    make_endpoint,
    make_node,
    make_service,
    make_service_port,
    make_slice,
)


def text_of(
    *objects: Service | EndpointSlice,
    node: NodeInfo | None = None,
    paint: explain_text.Paint = explain_text.plain,
) -> str:
    cache = Cache(node or make_node())
    cache.apply([Upsert(o) for o in objects], 0.0)
    return explain_text.render_text(explain.explain(cache, cache.services.values()), paint)


SHOP = (
    make_service(
        "shop/web",
        make_service_port(
            port_name="http",
            node_port=30080,
            load_balancer_vips=("203.0.113.2",),
            source_ranges=("198.51.100.0/24", "192.0.2.0/24"),
            affinity_timeout_s=600,
            external_local=True,
            health_check_node_port=30081,
        ),
    ),
    make_slice(
        "web-a",
        make_endpoint("10.1.0.1:8080", is_local=True, zone_hints=["z1"]),
        make_endpoint("10.1.0.2:8080", zone="z2", zone_hints=["z2"]),
        make_endpoint("10.1.0.3:8080", zone=None, ready=False),
        namespace="shop",
        port_name="http",
    ),
    make_slice(
        "web-b",
        make_endpoint("10.1.0.1:8080", ready=False, terminating=True),
        namespace="shop",
        port_name="http",
    ),
)


def test_the_text_of_a_service() -> None:
    expected = """\
        shop/web:http  TCP IPv4  on node n1, zone z1
          ClusterIP     10.96.0.10:80  policy Cluster
          NodePort      every node address:30080  policy Local
          LoadBalancer  203.0.113.2:80  policy Local
          sources       only 198.51.100.0/24, 192.0.2.0/24 (load balancer addresses)
          affinity      by client address, 600 s
          health check  node port 30081
          cluster list  1 of 3 endpoints, narrowed by hints (SameZone)
          local list    1 of 3 endpoints
          ENDPOINT       CLUSTER LIST              LOCAL LIST         NODE       ZONE  SLICE
          10.1.0.1:8080  + ready                   + ready            n1 (this)  z1    web-a
          10.1.0.2:8080  - hinted for other zones  - on another node  n2         z2    web-a
          10.1.0.3:8080  - not ready               - on another node  n2         -     web-a
          10.1.0.1:8080 is also stated by slice web-b, which lost to the one above
        """
    assert text_of(*SHOP) == textwrap.dedent(expected)


def test_the_text_of_a_service_without_endpoints() -> None:
    expected = """\
        default/web  TCP IPv6  on node n1, zone unknown
          ClusterIP     [fd00::10]:80  policy Local
          cluster list  not used by this service
          local list    empty: connections are refused (no usable endpoint anywhere)
          no endpoints
        """
    service = make_service(
        "default/web", make_service_port(cluster_ip="fd00::10", internal_local=True)
    )

    assert text_of(service, node=make_node(zone="")) == textwrap.dedent(expected)


def test_an_empty_list_of_a_service_that_is_served_elsewhere_means_drop() -> None:
    service = make_service("default/web", make_service_port(internal_local=True))

    text = text_of(service, make_slice("s-1", make_endpoint()))

    assert "local list    empty: connections are dropped (endpoints exist on other nodes)" in text


@pytest.mark.parametrize(
    ("objects", "node", "words"),
    [
        (
            [make_slice("s-1", make_endpoint(zone_hints=["z2"]))],
            make_node(),
            "hints are ignored: no ready endpoint is hinted for this zone",
        ),
        (
            [make_slice("s-1", make_endpoint(node_hints=["n7"]))],
            make_node(),
            "hints are ignored: no ready endpoint is hinted for this node",
        ),
        (
            [make_slice("s-1", make_endpoint(zone_hints=["z1"]))],
            make_node(zone=""),
            "hints are ignored: this node has no zone label",
        ),
        (
            [
                make_slice("s-1", make_endpoint(zone_hints=["z1"])),
                make_slice("s-2", make_endpoint("10.1.0.2:80")),
            ],
            make_node(),
            "hints are ignored: at least one ready endpoint has none",
        ),
    ],
)
def test_hints_that_are_ignored_are_said_to_be(
    objects: list[EndpointSlice], node: NodeInfo, words: str
) -> None:
    (line,) = [
        line
        for line in text_of(make_service(), *objects, node=node).splitlines()
        if line.startswith("  cluster list")
    ]

    total = len(objects)
    assert line == f"  cluster list  {total} of {total} endpoint{'s' * (total > 1)}; {words}"


def test_of_what_is_not_used_nothing_more_is_said() -> None:
    expected = """\
        default/web  TCP IPv4  on node n1, zone z1
          ClusterIP     10.96.0.10:80  policy Cluster
          cluster list  2 of 2 endpoints
          local list    not used by this service
          ENDPOINT       CLUSTER LIST  LOCAL LIST  NODE  ZONE  SLICE
          10.1.0.1:80    + ready       -           n2    z1    web-10
          10.1.0.2:8080  + ready       -           n2    z1    web-9
        """
    slices = (
        make_slice("web-9", make_endpoint("10.1.0.2:8080")),
        make_slice("web-10", make_endpoint("10.1.0.1:80")),
    )

    assert text_of(make_service(), *slices) == textwrap.dedent(expected)


def test_every_reason_has_words() -> None:
    """What is true of each endpoint stands beside it."""
    port = make_service_port(node_port=30080, external_local=True)
    text = text_of(
        make_service("default/web", port),
        make_slice(
            "s-1",
            make_endpoint("10.1.0.1:80", is_local=True, ready=False, terminating=True),
            make_endpoint("10.1.0.2:80", node_hints=["n1"]),
            make_endpoint("10.1.0.3:80", node_hints=["n2"]),
            make_endpoint("10.1.0.4:80", ready=False, serving=False, terminating=True),
        ),
    )

    rows = {row.split()[0]: re.split(r"  +", row.strip())[1:3] for row in text.splitlines()[6:]}
    assert rows == {
        "10.1.0.1:80": ["- terminating", "+ terminating, but no endpoint is ready"],
        "10.1.0.2:80": ["+ ready", "- on another node"],
        "10.1.0.3:80": ["- hinted for other nodes", "- on another node"],
        "10.1.0.4:80": ["- terminating, no longer serving", "- on another node"],
    }


def test_services_are_divided_by_an_empty_line() -> None:
    text = text_of(make_service("default/a"), make_service("default/b"))

    assert text.count("\n\n") == 1
    assert text.endswith("  no endpoints\n")


def test_no_service_is_no_text() -> None:
    assert text_of() == ""


def test_colours_stand_only_where_they_are_painted() -> None:
    plain = text_of(*SHOP)
    coloured = text_of(*SHOP, paint=explain_text.ansi)

    assert "\x1b" not in plain
    assert re.sub(r"\x1b\[\d+m", "", coloured) == plain


def test_colours_tell_what_serves_from_what_does_not() -> None:
    def tagged(text: str, style: explain_text.Style) -> str:
        return f"<{style}>{text}</>"

    painted = text_of(*SHOP, paint=tagged)
    elsewhere = text_of(make_service(), make_slice("s-1", make_endpoint()), paint=tagged)

    assert "<bold>shop/web:http</>" in painted
    assert "<green>1 of 3 endpoints</>" in painted
    assert "  <green>10.1.0.1:8080  + ready" in painted
    assert "  <yellow>10.1.0.2:8080  - hinted" in painted
    assert "  <green>10.1.0.1:80" in elsewhere  # in one list is enough
    assert "<red>empty" in text_of(make_service(), paint=tagged)
