"""Explanations printed service by service: the pieces together are the whole. And finding the service that was meant."""

from collections.abc import Collection

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy import explain, explain_text
from proxy.cache import Cache
from proxy.errors import ProxyError
from proxy.explain import Explained
from proxy.explain_text import Output
from proxy.model import IPV4, Family, ServicePort
from proxy.sources.events import Upsert
from tests.model_builders import (
    make_endpoint,
    make_node,
    make_service,
    make_service_port,
    make_slice,
)

OUTPUTS: list[Output] = ["json", "text", "ansi"]


def cache_of(*names: str) -> Cache:
    cache = Cache(make_node())
    cache.apply([Upsert(make_service(name)) for name in names], 0.0)
    cache.apply([Upsert(make_slice("web-a", make_endpoint()))], 0.0)
    return cache


def whole(explained: list[Explained], output: Output) -> str:
    if output == "json":
        return explain_text.render_json(explained) + "\n"
    return explain_text.render_text(
        explained, explain_text.ansi if output == "ansi" else explain_text.plain
    )


@pytest.mark.parametrize("output", OUTPUTS)
@given(st.lists(st.integers(0, 3), max_size=5))
def test_the_pieces_together_are_the_whole(output: Output, sizes: list[int]) -> None:
    cache = cache_of("default/web", "shop/api", "shop/é\u202e")
    every = explain.explain(cache, cache.services.values())
    printing = explain_text.Printing(output)
    batches = [every[:size] for size in sizes]
    together = [one for batch in batches for one in batch]

    assert "".join([*map(printing.piece, batches), printing.end()]) == whole(together, output)


def at_localhost(families: Collection[Family], port: ServicePort) -> list[Explained]:
    service = make_service("default/web", port)
    return explain.explain_service(service, [], make_node(), families)


def test_a_node_port_at_localhost_is_shown_with_who_serves_it_there() -> None:
    port = make_service_port("default/web", node_port=30080)
    (shown,), (plain,) = at_localhost([IPV4], port), at_localhost([], port)

    text = explain_text.render_text([shown], explain_text.plain)
    assert "  NodePort      127.0.0.1:30080  policy Cluster, by a listener of the proxy\n" in text
    assert "  NodePort      every node address:30080  policy Cluster\n" in text
    assert "listener" not in explain_text.render_text([plain], explain_text.plain)
    addresses = [each.address for each in shown.document().frontends if each.kind == "NodePort"]
    assert addresses == [None, "127.0.0.1"]


@pytest.mark.parametrize(
    ("families", "port"),
    [
        (("IPv6",), make_service_port("default/web", node_port=30080)),
        (("IPv4",), make_service_port("default/web")),
        (("IPv4",), make_service_port("default/web", protocol="SCTP", node_port=30080)),
    ],
)
def test_what_is_not_served_at_localhost_is_not_shown_there(
    families: Collection[Family], port: ServicePort
) -> None:
    (shown,) = at_localhost(families, port)

    assert "127.0.0.1" not in explain_text.render_text([shown], explain_text.plain)


def test_one_service_is_explained_as_among_all() -> None:
    cache = cache_of("default/web", "shop/api")
    found = explain.find(cache, "web", "")

    alone = explain.explain_service(found, cache.slices(found.name), cache.node)

    assert alone == explain.explain(cache, cache.services.values())[:1]
    assert alone[0].selection.cluster


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("api", "no Service default/api on node n1; there is shop/api"),
        ("shop/nobody", "no Service shop/nobody on node n1"),
        ("", "no Service default/ on node n1"),
    ],
)
def test_a_service_that_is_not_there_is_said_where(wanted: str, message: str) -> None:
    with pytest.raises(ProxyError) as caught:
        explain.find(cache_of("default/web", "shop/api"), wanted, "on node n1")

    assert str(caught.value) == message


def test_why_there_is_nothing_to_explain() -> None:
    headless = make_service("default/web", skipped="headless")

    assert explain.why_nothing([headless], "here") == "default/web is not proxied: headless"
    assert explain.why_nothing([headless, headless], "here") == "no Service here is proxied"
