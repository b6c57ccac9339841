"""The pages as a browser reads them: well-formed, nothing loaded, nothing run, usable by keyboard and by ear."""

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, example, given, settings
from msgspec import structs

from proxy.explain_text import shown
from proxy.model import EndpointSlice, Rejected, Service
from proxy.server import guard
from proxy.server.style import CONTENT_SECURITY_POLICY, STYLE
from proxy.sources.events import Event, Problems
from tests.model_builders import make_endpoint, make_service, make_service_port, make_slice
from tests.unit.proxy.server.serving_debug import Pages, looking, make_reconciler, shop
from tests.unit.proxy.server.test_markup import Reader, names, read

PATHS = (
    "/debug/",
    "/debug/?q=%3Cscript%3E%22%27&sort=state&limit=1",
    "/debug/?state=refusing",
    "/debug/services/default/web?output=html",
    "/debug/services/shop/api?output=html",
    "/debug/services/shop/files?output=html",
    "/debug/changes?output=html",
)


def read_pages(
    objects: Sequence[Service | EndpointSlice | Event], paths: Sequence[str] = PATHS
) -> list[Reader]:
    async def look(pages: Pages) -> list[Reader]:
        answers = [await pages.get(path) for path in paths]
        assert [answer.status for answer in answers] == [200] * len(paths)
        return [read(answer.text) for answer in answers]

    return looking(make_reconciler(objects), look)


@pytest.fixture(scope="module")
def found() -> list[Reader]:
    return read_pages(shop())


def test_nothing_is_loaded_and_nothing_runs(found: list[Reader]) -> None:
    for page in found:
        tags = {tag for tag, _ in page.tags}
        assert not tags & {"script", "img", "iframe", "link", "object", "svg", "video"}
        for _, attributes in page.tags:
            assert not [name for name in attributes if name.startswith("on") or name == "style"]
            assert attributes.get("href", "/debug/").startswith(("/debug", "#main"))


def test_the_style_is_the_very_one_the_policy_allows() -> None:
    assert "url(" not in STYLE
    assert "@import" not in STYLE
    assert "sha256-" in CONTENT_SECURITY_POLICY


def test_every_page_has_a_language_a_title_and_a_way_to_its_content(found: list[Reader]) -> None:
    for page in found:
        tags = [tag for tag, _ in page.tags]
        attributes = dict(page.tags)
        assert attributes["html"] == {"lang": "en"}
        assert [tags.count(tag) for tag in ("title", "h1", "main", "header")] == [1, 1, 1, 1]
        first_link = next(a for tag, a in page.tags if tag == "a")
        assert first_link["href"] == "#main"
        assert attributes["main"]["id"] == "main"
        assert any(a.get("content") == "light dark" for _, a in page.tags)
        # tab order is the order of reading
        assert {a["tabindex"] for _, a in page.tags if "tabindex" in a} <= {"0", "-1"}


def test_every_field_has_a_label_and_every_table_a_caption(found: list[Reader]) -> None:
    for page in found:
        inside: list[str] = []
        for tag, attributes in page.tags:
            inside.append(tag)
            if tag in ("input", "select") and attributes.get("type") != "hidden":
                assert "label" in inside[-2:]
        tags = [tag for tag, _ in page.tags]
        assert tags.count("table") == tags.count("caption")


def test_headings_go_down_step_by_step(found: list[Reader]) -> None:
    for page in found:
        levels = [int(tag[1]) for tag, _ in page.tags if tag in ("h1", "h2", "h3")]
        assert levels[0] == 1
        assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_the_links_of_every_page_lead_somewhere() -> None:
    async def look(pages: Pages) -> set[int]:
        statuses = set()
        seen: set[str] = set()
        waiting = ["/debug/"]
        while waiting and len(seen) < 200:
            path = waiting.pop()
            if path in seen:
                continue
            seen.add(path)
            answer = await pages.get(path, accept="text/html")
            statuses.add(answer.status if path != "/debug/config" else 200)
            if answer.headers["Content-Type"].startswith("text/html"):
                links = [a["href"] for tag, a in read(answer.text).tags if tag == "a"]
                waiting += [target for target in links if target != "#main"]
        assert any(path.startswith("/debug/services/shop/api") for path in seen)
        return statuses

    assert looking(make_reconciler(shop()), look) == {200}


def test_the_list_says_how_each_service_is_doing(found: list[Reader]) -> None:
    words = " ".join(found[0].text)

    for expected in ("default/web", "some not ready", "1 of 2 endpoints is not ready"):
        assert expected in words
    assert "it is headless" in words
    assert "connections are refused" in words
    assert "1–3 of 3" in words


def test_what_was_searched_for_stands_in_the_field(found: list[Reader]) -> None:
    (field,) = [a for tag, a in found[1].tags if a.get("name") == "q"]
    (chosen,) = [a for tag, a in found[1].tags if tag == "option" and "selected" in a]

    assert field["value"] == "<script>\"'"
    assert chosen["value"] == "state"
    (kept,) = [a for tag, a in found[2].tags if a.get("type") == "hidden"]
    assert kept == {"type": "hidden", "name": "state", "value": "refusing"}


def test_a_service_is_told_with_its_endpoints_and_what_the_kernel_holds(
    found: list[Reader],
) -> None:
    words = " ".join(found[3].text)

    for expected in (
        "10.1.0.1:80",
        "selected: ready",
        "not selected: not ready",
        "n1 (this one)",
        "to 1 endpoint",
        "as we believe it to be",
        "ClusterIP 10.96.0.1 port 80: 10.1.0.1:80",
        "Node n1@1",
    ):
        assert expected in words, expected
    assert "No slice states an endpoint" in " ".join(found[4].text)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(names, names, names)
@example("{", "http", "a")  # which routes treat apart
def test_names_of_any_kind_are_text_and_never_markup(name: str, port: str, zone: str) -> None:
    base = make_service("x/y", make_service_port("x/y", port))
    identity = base.name._replace(namespace=f"n{name}", name=name or "x")
    key = base.ports[0].key
    odd_key = key._replace(name=key.name._replace(namespace=identity[0], name=identity[1]))
    service = structs.replace(
        base, name=identity, ports=(structs.replace(base.ports[0], key=odd_key),), created=name
    )
    endpoint_slice = make_slice(name, make_endpoint(zone=zone), port_name=port)
    endpoint_slice = structs.replace(endpoint_slice, service=identity, namespace=identity[0])
    problem = Rejected(kind="Service", name=name, field=port, reason=zone)

    async def look(pages: Pages) -> list[Reader]:
        front = await pages.get("/debug/")
        target = next(
            a["href"] for tag, a in read(front.text).tags if "/services/" in a.get("href", "")
        )
        found = [front, await pages.get("/debug/changes?output=html")]
        if name.isprintable():  # of others an address holds no more than a likeness
            page = await pages.get(f"{target}?output=html")
            assert page.status == (200 if guard.is_plain_path(target) else 400), page
            found += [page] * (page.status == 200)
        return [read(answer.text) for answer in found]

    tags = {"script", "img", "b", "style"}
    objects: list[Service | EndpointSlice | Event] = [service, endpoint_slice]
    objects.append(Problems(f"Service {identity}", (problem,)))
    for page in looking(make_reconciler(objects), look):
        assert [tag for tag, _ in page.tags if tag in tags] == ["style"]
    assert shown(name).isprintable()
