"""The page of one service, made from documents of every kind. As a browser reads it: test_pages."""

from collections.abc import Sequence

import pytest
from msgspec import structs

from proxy.model import Rejected
from proxy.server.documents import (
    HeldDocument,
    OutcomeDocument,
    RefusedDocument,
    ServiceDocument,
    ShadowedDocument,
    service_document,
)
from proxy.server.pages import Frame
from proxy.server.service_page import ENDPOINTS, service
from tests.unit.proxy.server.test_documents import NOW, subject, world
from tests.unit.proxy.server.test_markup import read
from tests.worlds import World

__all__ = ["world"]  # the fixture
FRAME = Frame("n1", "z1", "nftables", "1.2")


@pytest.fixture
def document(world: World) -> ServiceDocument:
    return service_document(subject(world), NOW)


def words(document: ServiceDocument, number: int = 1) -> str:
    return " ".join(read(service(document, number, FRAME)).text)


def held(lines: Sequence[str] = (), differences: Sequence[str] = ()) -> HeldDocument:
    return HeldDocument(
        service_port="default/web",
        protocol="TCP",
        family="IPv4",
        lines=tuple(lines),
        differences=tuple(differences),
    )


@pytest.mark.parametrize(
    ("kernel", "expected"),
    [
        ((held(["services x : drop"]),), ["services x : drop", "as we believe it to be"]),
        ((held(),), ["nothing, as we believe"]),
        ((held(["a"], ["missing: <b>"]),), ["missing: <b>"]),
        ((held(["a"], [f"missing: {n}" for n in range(25)]),), ["and 5 more differences"]),
        (
            (held([f"line {n}" for n in range(ENDPOINTS + 7)]),),
            ["line 199", "and 7 more lines", "as we believe it to be"],
        ),
        ((), ["no answer from the kernel"]),
    ],
)
def test_it_is_told_what_the_kernel_holds(
    document: ServiceDocument, kernel: tuple[HeldDocument, ...], expected: list[str]
) -> None:
    found = words(
        structs.replace(document, kernel=kernel, kernel_error="no answer from the kernel")
    )

    assert [part for part in expected if part not in found] == []
    assert ("as we believe it to be" in found) == ("as we believe it to be" in expected)
    assert f"line {ENDPOINTS}" not in found


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        ({"outcome": "served", "endpoints": 1}, "to 1 endpoint"),
        ({"outcome": "served", "endpoints": 1200}, "to 1,200 endpoints"),
        ({"outcome": "refused"}, "refused: no endpoint is usable anywhere"),
        ({"outcome": "dropped"}, "dropped: the endpoints are on other nodes"),
        ({"outcome": "owned by another", "owner": "a/b"}, "go to a/b, which is older"),
        ({"outcome": "pending"}, "not yet programmed"),
    ],
)
def test_each_frontend_says_what_becomes_of_connections(
    document: ServiceDocument, outcome: dict[str, object], expected: str
) -> None:
    frontend = OutcomeDocument(
        **{  # type: ignore[arg-type] # each is of its field's type
            "kind": "ClusterIP",
            "address": "fd00::1",
            "port": 80,
            "policy": "Local",
            "endpoints": 0,
            "owner": None,
            **outcome,
        }
    )
    port = structs.replace(document.ports[0], frontends=(frontend,))
    found = words(structs.replace(document, ports=(port,)))

    assert "[fd00::1]:80" in found
    assert expected in found


def test_what_the_kernel_refused_and_what_was_stated_twice_is_told(
    document: ServiceDocument,
) -> None:
    port = structs.replace(
        document.ports[0],
        refused=RefusedDocument(reason="table full", failures=3, retry_in_seconds=4.0),
        shadowed=(ShadowedDocument(address="10.1.0.9:80", slice="web-z"),),
    )
    problem = Rejected(kind="Service", name="default/web", field="spec", reason="odd")
    found = words(structs.replace(document, ports=(port,), problems=(problem,)))

    assert "Refused by the kernel: table full (tried 3 times, again in 4 s)" in found
    assert "10.1.0.9:80 is also stated by slice web-z, which lost" in found
    assert "Service default/web spec: odd" in found


def test_endpoints_are_told_with_their_reasons(document: ServiceDocument) -> None:
    found = words(document)

    assert "selected: ready" in found
    assert "not selected: not ready" in found
    assert "not selected: on another node" in found
    assert "1 ready of 2, 1 used from this node" in found


@pytest.mark.parametrize(("number", "first"), [(1, 1), (2, 201), (3, 401), (9, 401)])
def test_many_endpoints_come_page_by_page(
    document: ServiceDocument, number: int, first: int
) -> None:
    (port,) = document.ports
    one = port.explained.endpoints[0]
    many = tuple([structs.replace(one, address=f"10.1.0.1:{n}") for n in range(1, 451)])
    port = structs.replace(port, explained=structs.replace(port.explained, endpoints=many))
    page = read(service(structs.replace(document, ports=(port,)), number, FRAME))

    shown = [part for part in page.text if part.startswith("10.1.0.1:")]
    assert shown == [one.address for one in many[first - 1 : first + 199]]
    links = [a["href"] for tag, a in page.tags if tag == "a" and "page=" in a["href"]]
    current = min(number, 3)
    others = [n for n in (current - 1, current + 1) if 1 <= n <= 3]
    assert [int(target.rpartition("page=")[2]) for target in links] == others
