"""The debug pages over HTTP on loopback: what each answers, to whom, and that no answer holds the loop for long."""

import asyncio
import contextlib
import json
from typing import Any

import aiohttp
import pytest
from msgspec import structs
from yarl import URL

from backends.null.backend import NullBackend, NullObserved
from proxy import explain, explain_text
from proxy.desired import DesiredPort
from proxy.errors import KernelError
from proxy.ladder import Refusal
from proxy.model import EndpointSlice, PortKey, Rejected, Service
from proxy.reconciler import Reconciler
from proxy.server import debug, guard, pieces
from proxy.server.client import NOTE
from proxy.server.overview import Overview
from proxy.sources.events import Event, Problems, Upsert
from tests.contract.daemon import make_services
from tests.model_builders import (
    make_endpoint,
    make_service,
    make_service_port,
    make_slice,
)
from tests.unit.proxy.config.loading import settings_of
from tests.unit.proxy.explaining import run
from tests.unit.proxy.server.serving_debug import (
    Pages,
    get,
    listening,
    looking,
    make_reconciler,
    shop,
)

HTML = "text/html,application/xhtml+xml"


def get_json(path: str, *more: Service | EndpointSlice | Event) -> Any:
    answer = get(make_reconciler([*shop(), *more]), path)
    assert answer.status == 200, answer.text
    assert answer.headers["Content-Type"].startswith("application/json")
    return json.loads(answer.text)


# --- how the proxy is doing


def test_what_is_degraded_stands_on_the_page_and_in_the_state() -> None:
    reconciler = make_reconciler(shop())

    async def look(pages: Pages) -> tuple[Any, str]:
        reconciler.last_error = "no buffer space"
        state = json.loads((await pages.get("/debug/state")).text)
        return state["degraded"], (await pages.get("/debug/")).text

    degraded, page = looking(reconciler, look)

    assert degraded == [{"code": "reconcile", "words": "no buffer space"}]
    assert "<li>no buffer space</li>" in page


def test_a_mode_that_takes_over_is_shown_with_what_it_takes_over_from() -> None:
    reconciler = make_reconciler(shop())
    other = NullBackend()
    other.name = "other"
    passed_over = Refusal(mode="null", primitive="a table", how="No such file or directory")

    async def look(pages: Pages) -> tuple[Any, str, str]:
        before = json.loads((await pages.get("/debug/state")).text)
        assert (before["mode"], before["passedOver"], before["modeChanges"]) == ("null", [], 0)
        await reconciler.use(other, [passed_over])
        await reconciler.is_synced.wait()
        state = json.loads((await pages.get("/debug/state")).text)
        config = json.loads((await pages.get("/debug/config")).text)
        return state, (await pages.get("/debug/")).text, config["modeInUse"]

    state, page, mode = looking(reconciler, look, settings_of())

    assert (state["mode"], state["modeChanges"], mode) == ("other", 1, "other")
    assert state["passedOver"] == [
        {"mode": "null", "primitive": "a table", "how": "No such file or directory"}
    ]
    words = "mode other instead of null: null: a table: No such file or directory"
    assert state["degraded"] == [{"code": "mode", "words": words}]
    assert f"<li>{words}</li>" in page


def test_the_state_names_what_is_known_and_what_is_wrong() -> None:
    rejected = Rejected(kind="Service", name="default/web", field="spec", reason="0")
    state = get_json("/debug/state", Problems("Service default/web", (rejected,)))

    assert (state["mode"], state["synced"], state["services"]) == ("null", True, 3)
    assert state["rejected"] == [
        {"kind": "Service", "name": "default/web", "field": "spec", "reason": "0"}
    ]
    assert state["degraded"] == []
    assert state["kernel"]["operations"] == 2


def test_the_state_is_there_as_text_too() -> None:
    answer = get(make_reconciler(shop()), "/debug/state?output=text")

    assert answer.headers["Content-Type"].startswith("text/plain")
    assert "on node n1, zone z1" in answer.text


# --- the list


def test_the_list_counts_and_pages() -> None:
    found = get_json("/debug/services?limit=2&page=2")

    assert [(s["namespace"], s["name"], s["state"]) for s in found["services"]] == [
        ("shop", "files", "skipped")
    ]
    assert (found["total"], found["matched"], found["page"], found["pages"]) == (3, 3, 2, 2)
    assert found["states"]["some-not-ready"] == found["states"]["refusing"] == 1


def test_the_list_follows_what_changes_between_two_looks() -> None:
    reconciler = make_reconciler(shop())

    async def look(pages: Pages) -> list[dict[str, Any]]:
        first = json.loads((await pages.get("/debug/services?q=web")).text)
        ready = make_slice("web-a", make_endpoint("10.1.0.1:80", is_local=True))
        reconciler.cache.apply([Upsert(ready), Upsert(make_service("a/first"))], 0.0)
        reconciler.wake()
        second = json.loads((await pages.get("/debug/services?q=web")).text)
        third = json.loads((await pages.get("/debug/services")).text)
        return [*first["services"], *second["services"], third["services"][0]]

    before, after, first = looking(reconciler, look)

    assert (before["state"], before["ready"], before["endpoints"]) == ("some-not-ready", 1, 2)
    assert (after["state"], after["ready"], after["endpoints"]) == ("ok", 1, 1)
    assert first["namespace"] == "a"


@pytest.mark.parametrize(
    "query",
    ["page=0", "page=x", "limit=1001", "limit=-1", "limit=٣", "state=fine", "sort=colour"],
)
def test_a_parameter_that_makes_no_sense_is_named(query: str) -> None:
    for path in ("/debug/", "/debug/services"):
        answer = get(make_reconciler(), f"{path}?{query}")

        assert answer.status == 400
        assert answer.text.startswith(query.partition("=")[0] + ": ")


# --- one service


def test_a_service_is_told_with_all_that_belongs_to_it() -> None:
    problem = Rejected(kind="EndpointSlice", name="default/web-a", field="ports", reason="no name")
    older = make_service(
        "shop/older", make_service_port("shop/older", cluster_ip="10.96.0.1"), created="2020"
    )
    found = get_json(
        "/debug/services/default/web",
        Problems("EndpointSlice default/web-a", (problem,)),
        make_slice("web-b", make_endpoint("10.1.0.1:80", terminating=True)),
        older,
    )
    (port,) = found["ports"]

    assert found["state"] == "partly-owned"
    assert [e["address"] for e in port["explained"]["endpoints"]] == ["10.1.0.1:80", "10.1.0.2:80"]
    assert port["explained"]["endpoints"][1]["cluster"] == {
        "selected": False,
        "reason": "not-ready",
    }
    assert port["shadowed"] == [{"address": "10.1.0.1:80", "slice": "web-b"}]
    (frontend,) = port["frontends"]
    assert (frontend["outcome"], frontend["owner"]) == ("owned by another", "shop/older")
    assert [s["name"] for s in found["slices"]] == ["web-a", "web-b"]
    assert [p["reason"] for p in found["problems"]] == ["no name"]
    (held,) = found["kernel"]
    assert (held["servicePort"], held["differences"]) == ("default/web", [])
    (change,) = found["changes"]
    assert change["cause"] == "Node n1@1"  # its zone became known last
    stages = ("decodedMs", "queuedMs", "plannedMs", "acknowledgedMs")
    assert sum(change[stage] for stage in stages) == pytest.approx(change["totalMs"], abs=0.01)


def test_a_browser_gets_html_and_a_program_json() -> None:
    reconciler = make_reconciler(shop())

    async def look(pages: Pages) -> list[str]:
        path = "/debug/services/default/web"
        answers = [
            await pages.get(path, accept=HTML),
            await pages.get(path),
            await pages.get(f"{path}?output=json", accept=HTML),
            await pages.get(f"{path}?output=html"),
            await pages.get("/debug/changes", accept=HTML),
            await pages.get("/debug/changes"),
            await pages.get("/debug/"),
        ]
        return [answer.headers["Content-Type"].partition(";")[0] for answer in answers]

    html, js = "text/html", "application/json"
    assert looking(reconciler, look) == [html, js, js, html, html, js, html]


def test_a_page_may_load_nothing_and_run_nothing() -> None:
    policy = get(make_reconciler(), "/debug/").headers["Content-Security-Policy"]

    assert "default-src 'none'" in policy
    assert "script" not in policy
    assert "unsafe" not in policy


def test_a_service_that_is_not_there_is_named_with_those_of_that_name() -> None:
    reconciler = make_reconciler(shop())

    async def look(pages: Pages) -> list[tuple[int, str]]:
        paths = ("services/default/api", "explain?service=api", "kernel?service=default/api")
        answers = [await pages.get(f"/debug/{path}") for path in paths]
        return [(answer.status, answer.text) for answer in answers]

    sentence = "no Service default/api on node n1; there is shop/api\n"
    assert looking(reconciler, look) == [(404, sentence)] * 3


def test_names_of_any_kind_are_found_again() -> None:
    name = "a b/<i>&%2f#?é\u202e"
    service = make_service("x/y", make_service_port("x/y"))
    odd = service.name._replace(namespace="n/s", name=name.partition("/")[2])
    reconciler = make_reconciler([structs.replace(service, name=odd, ports=())])

    async def look(pages: Pages) -> tuple[str, int]:
        page = (await pages.get("/debug/")).text
        target = page.partition('<tbody>\n<tr><th scope="row" class="name"><a href="')[
            2
        ].partition('"')[0]
        async with (
            aiohttp.ClientSession() as session,
            session.get(URL(pages.url + target, encoded=True)) as answer,
        ):
            return (await answer.json())["name"], answer.status

    assert looking(reconciler, look) == (odd.name, 200)


def test_a_large_service_is_told_whole() -> None:
    endpoints = [make_endpoint(f"10.1.{n >> 8}.{n & 255}:80") for n in range(1200)]
    objects: list[Service | EndpointSlice] = [
        make_service(),
        make_slice("web-a", *endpoints),
    ]

    async def look(pages: Pages) -> tuple[Any, str, str]:
        document = json.loads((await pages.get("/debug/services/default/web")).text)
        first = (await pages.get("/debug/services/default/web?output=html")).text
        last = (await pages.get("/debug/services/default/web?output=html&page=6")).text
        return document, first, last

    document, first, last = looking(make_reconciler(objects), look)

    assert len(document["ports"][0]["explained"]["endpoints"]) == 1200
    assert "1–200 of 1,200" in first
    assert "1,001–1,200 of 1,200" in last
    assert "page=5" in last
    assert "page=7" not in last


# --- explain, as the command


@pytest.mark.parametrize("output", ["json", "text", "ansi"])
@pytest.mark.parametrize("service", ["default/web", "shop/files", None])
def test_explain_is_what_the_command_prints_of_the_same_objects(
    output: str, service: str | None
) -> None:
    reconciler = make_reconciler(shop())
    question = f"&service={service}" if service else ""
    answer = get(reconciler, f"/debug/explain?output={output}{question}")

    cache = reconciler.cache
    services = [explain.find(cache, service, "")] if service else list(cache.services.values())
    explained = explain.explain(cache, services)
    if output == "json":
        assert answer.text == explain_text.render_json(explained) + "\n"
    else:
        paint = explain_text.ansi if output == "ansi" else explain_text.plain
        assert answer.text == explain_text.render_text(explained, paint)
    note = answer.headers.get(NOTE)
    assert note == ("shop/files is not proxied: headless" if service == "shop/files" else None)


def test_the_command_asks_a_running_daemon() -> None:
    async def look(pages: Pages) -> list[tuple[int, str, str]]:
        return [
            await asyncio.to_thread(run, *arguments, "--server", pages.url)
            for arguments in (
                ("explain", "web"),
                ("explain", "shop/files"),
                ("explain", "nobody"),
                ("state",),
                ("state", "-o", "json"),
            )
        ]

    web, files, nobody, state, document = looking(make_reconciler(shop()), look)

    assert (web[0], web[2]) == (0, "")
    assert web[1].startswith("default/web  TCP IPv4  on node n1, zone z1\n")
    assert files == (0, "", "note: shop/files is not proxied: headless\n")
    assert (nobody[0], nobody[1]) == (1, "")
    assert "no Service default/nobody on node n1" in nobody[2]
    assert state[1].startswith("sliceproxy ")
    assert json.loads(document[1])["services"] == 3


# --- changes, kernel, settings


def test_changes_are_told_newest_first() -> None:
    changes = get_json("/debug/changes")

    assert changes["total"] == changes["kept"] == 2
    assert {c["servicePort"] for c in changes["latest"]} == {"default/web", "shop/api:http"}


class Elsewhere(NullBackend):
    """Its kernel holds something else than what it believes, or cannot be read."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error

    def _programmed(self, observed: NullObserved) -> dict[PortKey, DesiredPort]:
        if self.error is not None:
            raise self.error
        return {key: port for key, port in observed.ports.items() if key.name.name != "web"}


def test_the_kernel_is_read_at_the_moment_of_asking_and_differences_are_named() -> None:
    reconciler = make_reconciler(shop(), Elsewhere())

    async def look(pages: Pages) -> list[Any]:
        paths = ("kernel", "kernel?only=differences", "kernel?service=shop/api")
        return [json.loads((await pages.get(f"/debug/{path}")).text) for path in paths]

    everything, different, one = looking(reconciler, look)

    assert [h["servicePort"] for h in everything] == ["shop/api:http", "default/web", None]
    (web,) = different
    assert (web["servicePort"], web["lines"]) == ("default/web", [])
    assert "10.1.0.1:80" in web["differences"][0]
    assert [h["servicePort"] for h in one] == ["shop/api:http"]


def test_a_kernel_that_cannot_be_read_costs_only_that_part() -> None:
    reconciler = make_reconciler(shop(), Elsewhere(KernelError("dump", 105, "no buffer space")))

    async def look(pages: Pages) -> tuple[Any, Any]:
        kernel = json.loads((await pages.get("/debug/kernel")).text)
        service = json.loads((await pages.get("/debug/services/default/web")).text)
        return kernel, service

    kernel, service = looking(reconciler, look)

    assert kernel == [{"error": "dump: no buffer space (errno 105)"}]
    assert service["kernelError"] == "dump: no buffer space (errno 105)"
    assert service["ports"]


def test_while_everything_is_read_anew_the_kernel_page_says_so() -> None:
    reconciler = make_reconciler(shop())

    async def look(pages: Pages) -> tuple[int, str]:
        reconciler.observed = None
        answer = await pages.get("/debug/kernel")
        return answer.status, answer.text

    status, text = looking(reconciler, look)

    assert status == 503
    assert "being read anew" in text


def test_the_settings_are_told_without_what_is_secret_in_a_url() -> None:
    given = settings_of("--manifests", "/objects", "--master", "https://me:pass@10.0.0.1:6443")

    answer = looking(make_reconciler(), lambda pages: pages.get("/debug/config"), given)

    document = json.loads(answer.text)
    assert document["modeInUse"] == "null"
    assert document["nodeName"] == given.node_name
    assert "pass" not in answer.text
    assert document["minSyncPeriodSeconds"] == given.min_sync_period_s


# --- who may ask


PATHS = (
    "/debug",
    "/debug/",
    "/debug/state",
    "/debug/services",
    "/debug/services/default/web",
    "/debug/explain",
    "/debug/changes",
    "/debug/kernel",
    "/debug/config",
)


@pytest.mark.parametrize("is_local_only", [True, False])
def test_no_page_answers_under_a_foreign_name_or_to_another_method(*, is_local_only: bool) -> None:
    reconciler = make_reconciler(shop())

    async def main() -> set[int]:
        app = guard.application(is_local_only=is_local_only)
        debug.add_routes(app, reconciler)
        async with listening(app) as url, aiohttp.ClientSession() as session:
            statuses = set()
            for path in PATHS:
                async with session.get(url + path, headers={"Host": "evil.example"}) as answer:
                    statuses.add(answer.status)
                async with session.post(url + path) as answer:
                    statuses.add(answer.status)
            return statuses

    assert asyncio.run(main()) == {403, 405}


def test_the_short_address_leads_to_the_page() -> None:
    answer = get(make_reconciler(), "/debug")

    assert (answer.status, answer.headers["Location"]) == (301, "/debug/")


# --- the loop


class Turns:
    """Counts turns of the event loop, and does nothing else."""

    def __init__(self) -> None:
        self.count = 0

    async def run(self) -> None:
        while True:
            self.count += 1
            await asyncio.sleep(0)


@pytest.mark.parametrize("path", ["/debug/services", "/debug/?q=s1&sort=state", "/debug/explain"])
def test_others_run_while_all_services_are_looked_through(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every step is as long as a piece may be, so between any two of them the loop must have turned."""
    monkeypatch.setattr(pieces, "PIECE_S", 0.0)
    reconciler: Reconciler = make_reconciler(make_services(0, 300))
    turns = Turns()

    async def look(pages: Pages) -> int:
        task = asyncio.create_task(turns.run())
        before = turns.count
        assert (await pages.get(path)).status == 200
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        return turns.count - before

    assert looking(reconciler, look) >= 300


def test_the_list_is_not_kept_when_nobody_asks_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debug, "REMEMBERED_S", 0.0)
    forgotten: list[int] = []
    forget = Overview.forget

    def watched(overview: Overview) -> None:
        forgotten.append(len(overview.rows))
        forget(overview)

    monkeypatch.setattr(Overview, "forget", watched)

    async def look(pages: Pages) -> list[int]:
        for path in ("/debug/", "/debug/services", "/debug/state"):
            assert (await pages.get(path)).status == 200
        return [rows for rows in forgotten if rows]

    assert looking(make_reconciler(shop()), look) == [3, 3]


def test_one_answer_about_everything_is_made_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "PIECE_S", 0.0)
    reconciler = make_reconciler(make_services(0, 100))
    at_work, most = 0, 0
    in_pieces = pieces.in_pieces

    async def watched(steps: Any) -> Any:
        nonlocal at_work, most
        at_work += 1
        most = max(most, at_work)
        try:
            return await in_pieces(steps)
        finally:
            at_work -= 1

    monkeypatch.setattr(pieces, "in_pieces", watched)

    async def look(pages: Pages) -> list[int]:
        answers = await asyncio.gather(*[pages.get("/debug/services") for _ in range(5)])
        return [answer.status for answer in answers]

    assert looking(reconciler, look) == [200] * 5
    assert most == 1
