"""One page of the list: search, filter, order, and what is no parameter."""

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.server.listing import (
    SORTS,
    ParameterError,
    Query,
    Services,
    listing,
    number,
    parse_query,
)
from tests.model_builders import make_endpoint, make_service, make_service_port, make_slice
from tests.unit.proxy.server.test_overview import Watched


@pytest.fixture(scope="module")
def watched() -> Watched:
    """Five services with 0 to 4 endpoints, of which the last is not ready; and one that is not proxied."""
    watched = Watched()
    for n in range(5):
        name = f"s{n}"
        port = make_service_port(cluster_ip=f"10.96.0.{n}")
        endpoints = [make_endpoint(f"10.1.{n}.{e}:80", ready=e < 3) for e in range(n)]
        watched.hear(make_service(f"Team/{name}", port))
        watched.hear(make_slice(f"{name}-a", *endpoints, namespace="Team", service=name))
    watched.hear(make_service("other/headless", skipped="headless"))
    return watched


def found(watched: Watched, query: Query) -> Services:
    pages: list[Services] = []

    def steps() -> Iterator[None]:
        pages.append((yield from listing(watched.overview, query)))

    for _ in steps():
        pass
    return pages[0]


def names(services: Services) -> list[str]:
    return [row.name for row in services.services]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (Query(), ["s0", "s1", "s2", "s3", "s4", "headless"]),
        (Query(q="S3"), ["s3"]),
        (Query(q="team/s"), ["s0", "s1", "s2", "s3", "s4"]),
        (Query(q="10.96.0.2"), ["s2"]),
        (Query(q="10.1.4.2"), ["s4"]),
        (Query(q="10.1.4"), []),
        (Query(q="nothing"), []),
        (Query(state="skipped"), ["headless"]),
        (Query(state="refusing"), ["s0"]),
        (Query(q="s", state="some-not-ready"), ["s4"]),
        (Query(sort="state"), ["s0", "s4", "s1", "s2", "s3", "headless"]),
        (Query(sort="endpoints"), ["s4", "s3", "s2", "s1", "s0", "headless"]),
        (Query(sort="ready"), ["s4", "s0", "s1", "s2", "s3", "headless"]),
        (Query(sort="used"), ["s3", "s4", "s2", "s1", "s0", "headless"]),
        (Query(page=2, limit=4), ["s4", "headless"]),
        (Query(page=9, limit=4), ["s4", "headless"]),
        (Query(sort="endpoints", page=2, limit=2), ["s2", "s1"]),
    ],
)
def test_what_is_asked_for_is_found(watched: Watched, query: Query, expected: list[str]) -> None:
    assert names(found(watched, query)) == expected


def test_counts_are_of_all_services_whatever_was_asked_for(watched: Watched) -> None:
    page = found(watched, Query(q="s4", limit=10))

    assert (page.total, page.matched, page.pages) == (6, 1, 1)
    assert sum(page.states.values()) == 6
    (row,) = page.services
    assert (row.endpoints, row.ready, row.used) == (4, 3, 3)
    assert row.why == "1 of 4 endpoints is not ready"
    assert row.frontends == ("ClusterIP 10.96.0.4:80",)


@given(st.sampled_from(SORTS), st.integers(1, 7))
def test_the_pages_together_are_the_whole_in_every_order(sort: str, limit: int) -> None:
    watched = Watched()
    for n in range(11):
        port = make_service_port(cluster_ip=f"10.96.0.{n}")
        watched.hear(make_service(f"default/s{n % 4}{n}", port))
    query = parse_query({"sort": sort, "limit": str(limit)})
    first = found(watched, query)
    pages = [found(watched, query._replace(page=page)) for page in range(1, first.pages + 1)]

    together = [name for page in pages for name in names(page)]
    assert together == names(found(watched, query._replace(limit=1000)))
    assert len(set(together)) == 11


def test_a_query_is_read_and_written_the_same() -> None:
    query = Query(q="a&b", state="ok", sort="ready", page=3, limit=7)

    assert parse_query(query.parameters) == query
    assert Query().parameters == {}
    assert parse_query({}) == parse_query({"q": "  ", "sort": "", "page": ""}) == Query()


@pytest.mark.parametrize("text", ["0", "11", "-1", "+1", "1.0", "x", "²", "1" * 5000])
def test_a_number_that_is_none_or_too_large_is_refused_by_name(text: str) -> None:
    with pytest.raises(ParameterError, match=r"^page: a number from 1 to 10$"):
        number({"page": text}, "page", 1, 10)
