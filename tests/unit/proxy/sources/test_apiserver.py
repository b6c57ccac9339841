"""A source keeps up with a server over real connections, whatever happens to them."""

import asyncio
import contextlib
import logging
import ssl
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, NamedTuple

import msgspec
import pytest
import trustme
import uvloop

from proxy.config.settings import ApiServerSettings
from proxy.errors import ApiError, ConfigError
from proxy.model import EndpointSlice
from proxy.sources import apiserver
from proxy.sources.access import Access, tls_context
from proxy.sources.apiserver import ApiServerSource
from proxy.sources.backoff import Backoff
from proxy.sources.events import Delete, Synced, Trouble, WatchReport
from proxy.sources.reflector import Limits
from tests.builders import make_service, make_slice, watch_line
from tests.fakes.recorder import Recorder, running
from tests.unit.proxy.config.loading import from_own
from tests.unit.proxy.sources.api_fake import KINDS, Refusal, Server, serving
from tests.unit.proxy.sources.reflecting import error, slice_at

Run = Callable[[Coroutine[Any, Any, None]], None]

FAST = "backoffFirst: 10ms, backoffMax: 50ms, resumeWithin: 60s"


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Iterator[Run]:
    factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        yield runner.run


@pytest.fixture(autouse=True)
def all_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


class Scene(NamedTuple):
    server: Server
    source: ApiServerSource
    recorder: Recorder

    def report(self, kind: str = "EndpointSlice") -> WatchReport:
        [report] = [one for one in self.source.report() if one.kind == kind]
        return report

    async def until(self, is_so: Callable[[WatchReport], bool]) -> None:
        """Wait until the report on EndpointSlices says something."""
        await _until(lambda: is_so(self.report()))


async def _until(is_so: Callable[[], bool]) -> None:
    """Look again and again: nobody announces what a report will say."""
    async with asyncio.timeout(60):
        while not is_so():  # noqa: ASYNC110 - see above
            await asyncio.sleep(0.005)


def _source(
    server: Server, fields: str = FAST, load: Callable[[], Access] | None = None
) -> ApiServerSource:
    settings, _ = from_own(f"apiServer: {{{fields}}}\n")
    settings = msgspec.structs.replace(settings, node_name="node-1")
    access = Access(f"http://127.0.0.1:{server.port}", None, {})
    return ApiServerSource(settings, load or (lambda: access))


@contextlib.asynccontextmanager
async def _scene(
    fields: str = FAST, *, is_synced: bool = True, load: Callable[[], Access] | None = None
) -> AsyncIterator[Scene]:
    async with serving() as server:
        source = _source(server, fields, load)
        async with running(source) as recorder:
            if is_synced:
                await recorder.until(lambda: recorder.is_synced)
                for plural in KINDS:
                    await server.until_watched(plural)
            yield Scene(server, source, recorder)


def test_everything_is_streamed_and_changes_follow(run: Run) -> None:
    async def scenario() -> None:
        async with _scene() as (server, source, recorder):
            assert recorder.names == {"web", "web-1", "node-1"}
            assert all("sendInitialEvents=true" in target for target in server.targets)

            await server.push("endpointslices", watch_line("ADDED", slice_at("web-2", 101)))
            await recorder.until(lambda: "web-2" in recorder.names)
            await server.push("endpointslices", watch_line("DELETED", slice_at("web-1", 102)))
            await recorder.until(lambda: "web-1" not in recorder.names)

            reports = source.report()
            assert [report.kind for report in reports] == [*KINDS.values()]
            assert {report.phase for report in reports} == {"watching"}
            assert {report.error for report in reports} == {""}
            assert reports[1].resource_version == "102"
            assert 0 < reports[1].heard_s <= time.monotonic()

    run(scenario())


def test_a_plugin_that_cannot_work_yet_is_asked_again(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with serving() as server:
            access = Access(f"http://127.0.0.1:{server.port}", None, {})
            answers = iter([ApiError("exec: no name server"), ApiError("exec: no name server")])

            reports: list[tuple[str, int, str]] = []

            def load() -> Access:
                reports.extend([(r.kind, r.failures, r.error) for r in source.report()])
                for error in answers:
                    raise error
                return access

            source = _source(server, load=load)
            async with running(source) as recorder:
                await recorder.until(lambda: recorder.is_synced)
                assert {report.error for report in source.report()} == {""}

            kinds = list(KINDS.values())
            assert reports == [
                *[(kind, 0, "") for kind in kinds],
                *[(kind, 1, "exec: no name server") for kind in kinds],
                *[(kind, 2, "exec: no name server") for kind in kinds],
            ]

    run(scenario())
    assert caplog.text.count("no credentials yet: exec: no name server; it is tried again") == 1


def test_lists_come_in_compressed_pages(run: Run) -> None:
    async def scenario() -> None:
        async with serving() as server:
            server.objects["endpointslices"] = [make_slice(f"s{number}") for number in range(5)]
            source = _source(server, f"{FAST}, watchList: 'off', listPageSize: 2")
            async with running(source) as recorder:
                await recorder.until(lambda: recorder.is_synced)
                assert recorder.names == {"web", "node-1", "s0", "s1", "s2", "s3", "s4"}
                await server.until_watched("endpointslices")
                pages = [one for one in server.requests if "endpointslices" in one.path_qs]
                assert [one.query.get("continue") for one in pages] == [None, "2", "4", None]
                assert [one.headers["Accept-Encoding"] for one in pages] == ["gzip"] * 3 + [
                    "identity"
                ]
                assert pages[-1].query["resourceVersion"] == "100"

    run(scenario())


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_pieces_may_end_anywhere(run: Run, size: int) -> None:
    async def scenario() -> None:
        async with _scene() as (server, _, recorder):
            objects = [slice_at(f"s{n}", 101 + n, labels={"who": "Zoë €"}) for n in range(3)]
            data = b"".join(watch_line("ADDED", obj) for obj in objects)
            data = data.replace(b"Zo\\u00eb \\u20ac", "Zoë €".encode())
            for start in range(0, len(data), size):
                await server.push("endpointslices", data[start : start + size])
            await recorder.until(lambda: {"s0", "s1", "s2"} <= recorder.names)
            assert not recorder.problems

    run(scenario())


def test_a_watch_that_ends_or_breaks_goes_on_where_it_was(run: Run) -> None:
    async def scenario() -> None:
        async with _scene() as scene:
            server, _, recorder = scene
            await server.push("endpointslices", watch_line("ADDED", slice_at("new", 140)))
            await recorder.until(lambda: "new" in recorder.names)

            await server.push("endpointslices", watch_line("ADDED", slice_at("cut", 150))[:-9])
            await server.drop("endpointslices")
            await server.until_watched("endpointslices")
            assert server.requests[-1].query["resourceVersion"] == "140"
            await server.end("endpointslices")
            await server.until_watched("endpointslices")

            assert server.requests[-1].query["resourceVersion"] == "140"
            assert "cut" not in recorder.names
            assert scene.report().errors == {"closed": 2}

    run(scenario())


def test_410_leads_to_a_new_stream_and_to_deletions(run: Run) -> None:
    async def scenario() -> None:
        async with _scene() as scene:
            server, _, recorder = scene
            server.objects["endpointslices"] = [make_slice("other")]

            await server.push("endpointslices", error(410, "too old"))

            await recorder.until(lambda: "other" in recorder.names)
            await recorder.until(lambda: "web-1" not in recorder.names)
            assert scene.report().errors == {"gone": 1}
            assert recorder.events[-2:] == [
                Delete("EndpointSlice", "default", "web-1"),
                Synced("EndpointSlice"),
            ]

    run(scenario())


def test_after_an_outage_all_kinds_are_up_to_date_and_the_log_tells_it_once(
    run: Run, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.sources.reflector.STEADY_S", 0.1)

    async def scenario() -> None:
        fields = "backoffFirst: 10ms, backoffMax: 50ms, resumeWithin: 0s"
        async with _scene(fields) as scene:
            server, source, recorder = scene
            await server.stop()
            await scene.until(lambda report: report.errors.get("connect", 0) >= 5)
            assert recorder.names == {"web", "web-1", "node-1"}
            server.objects["services"] = []
            server.objects["endpointslices"] = [make_slice("after")]

            await server.start()

            await recorder.until(lambda: recorder.names == {"node-1", "after"})
            await scene.until(lambda report: report.error == "")
            assert all(report.phase == "watching" for report in source.report())
            await _until(lambda: "EndpointSlices are watched again" in caplog.text)

    run(scenario())
    slices = [record for record in caplog.messages if "EndpointSlices" in record]
    assert len([line for line in slices if ": connect: " in line]) == 1
    assert len([line for line in slices if "are watched again" in line]) == 1


def test_one_kind_finds_the_server_for_all(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    limits_of = apiserver._limits

    def with_patience(settings: ApiServerSettings, *, asks_often: bool) -> Limits:
        limits = limits_of(settings, asks_often=asks_often)
        assert limits.away_backoff.max_s == limits.backoff.max_s * (1 if asks_often else 4)
        if asks_often:
            return limits
        return msgspec.structs.replace(limits, away_backoff=Backoff(first_s=9999, max_s=9999))

    monkeypatch.setattr(apiserver, "_limits", with_patience)

    async def scenario() -> None:
        async with _scene() as scene:
            server, source, recorder = scene
            await server.stop()
            await _until(lambda: _longest_wait_s(source) > 1000)
            server.objects["services"] = [make_service("after")]

            await server.start()

            for plural in KINDS:
                await server.until_watched(plural)
            assert _longest_wait_s(source) < 0
            await server.push("services", watch_line("ADDED", make_service("after")))
            await recorder.until(lambda: "after" in recorder.names)

    run(scenario())


def _longest_wait_s(source: ApiServerSource) -> float:
    """Return the second longest time until a kind asks again."""
    return sorted(report.retry_s - time.monotonic() for report in source.report())[1]


def test_refused_credentials_are_read_again_at_once(run: Run) -> None:
    async def scenario() -> None:
        tokens = ["old"]
        async with serving() as server:
            server.token = "old"

            def load() -> Access:
                headers = {"Authorization": f"Bearer {tokens[-1]}"}
                return Access(f"http://127.0.0.1:{server.port}", None, headers)

            # Pauses so long that only a request without one can do it.
            source = _source(server, "backoffFirst: 30s, backoffMax: 30s", load)
            async with running(source) as recorder:
                await recorder.until(lambda: recorder.is_synced)
                await server.until_watched("endpointslices")
                server.token = "new"
                tokens.append("new")
                server.objects["endpointslices"] = [make_slice("after")]

                await server.push("endpointslices", error(410))

                await recorder.until(lambda: "after" in recorder.names)
                [report] = [one for one in source.report() if one.kind == "EndpointSlice"]
                assert report.errors == {"gone": 1, "unauthorized": 1}

    run(scenario())


def test_what_a_role_does_not_allow_is_told_with_the_rule(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with _scene(is_synced=False) as scene:
            scene.server.refusals["endpointslices"] = Refusal(403, '{"message":"cannot list"}')
            await scene.until(lambda report: report.failures >= 3)

            scene.server.refusals.clear()

            await scene.recorder.until(lambda: scene.recorder.is_synced)

    run(scenario())
    [line] = [line for line in caplog.messages if "forbidden" in line]
    assert "cannot list" in line
    assert 'apiGroups: ["discovery.k8s.io"], resources: [endpointslices]' in line


def test_a_server_that_asks_for_time_gets_it(run: Run) -> None:
    async def scenario() -> None:
        async with _scene(is_synced=False) as scene:
            scene.server.refusals["endpointslices"] = Refusal(429, Retry_After="7")
            before_s = time.monotonic()
            await scene.until(lambda report: report.errors.get("throttled", 0) == 1)
            await scene.until(lambda report: report.phase == "waiting")

            assert before_s + 7 < scene.report().retry_s < time.monotonic() + 8

    run(scenario())


@pytest.mark.parametrize("status", [400, 404, 429])
def test_a_server_that_is_back_and_refuses_every_kind_is_asked_once_for_each(
    run: Run, status: int
) -> None:
    async def scenario() -> None:
        async with serving() as server:
            server.refusals = {plural: Refusal(status, Retry_After="20") for plural in KINDS}
            await server.stop()
            source = _source(server, f"{FAST}, watchList: 'off'")
            async with running(source):
                await _until(lambda: all(each.failures for each in source.report()))
                await server.start()
                trouble: Trouble = "throttled" if status == 429 else "server"
                # the server may be too old for the last kind: that is no trouble
                needed = len(KINDS) - (status == 404)
                await _until(lambda: all(trouble in e.errors for e in source.report()[:needed]))
                await _until(lambda: {each.phase for each in source.report()} == {"waiting"})

                assert len(server.requests) == len(KINDS)

    run(scenario())


def test_a_redirect_is_not_followed(run: Run) -> None:
    async def scenario() -> None:
        async with _scene(is_synced=False) as scene:
            location = f"http://127.0.0.1:{scene.server.port}/elsewhere"
            scene.server.refusals["endpointslices"] = Refusal(302, Location=location)
            await scene.until(lambda report: report.errors.get("server", 0) >= 2)

            assert not any("elsewhere" in target for target in scene.server.targets)

    run(scenario())


def test_a_silent_watch_is_asked_for_again(run: Run) -> None:
    async def scenario() -> None:
        async with _scene(f"{FAST}, silenceTimeout: 100ms") as scene:

            def asked() -> list[str]:
                return [one for one in scene.server.targets if "endpointslices" in one]

            await scene.until(lambda report: report.errors.get("silent", 0) >= 1)
            await _until(lambda: any("resourceVersion=100" in again for again in asked()[1:]))

    run(scenario())


def test_the_log_warns_of_what_does_not_pass_by_itself(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with _scene() as scene:
            await scene.server.drop("endpointslices")
            await _until(lambda: "EndpointSlices: closed: " in caplog.text)
            await scene.server.stop()
            await _until(lambda: "EndpointSlices: connect: " in caplog.text)

    run(scenario())
    levels = {
        trouble: record.levelname
        for record in caplog.records
        for trouble in ("closed", "connect")
        if f"EndpointSlices: {trouble}: " in record.message
    }
    assert levels == {"closed": "INFO", "connect": "WARNING"}


def test_a_server_that_never_answers_is_asked_again(run: Run) -> None:
    async def scenario() -> None:
        async with _scene(f"{FAST}, silenceTimeout: 100ms", is_synced=False) as scene:
            scene.server.answers.clear()
            await scene.until(lambda report: report.errors.get("timeout", 0) >= 2)
            scene.server.answers.set()

            await scene.recorder.until(lambda: scene.recorder.is_synced)

    run(scenario())


def test_a_server_without_streams_is_told_once_and_listed(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with serving() as server:
            original = server._watch

            async def refuse_streams(request: Any, plural: str) -> Any:
                if request.query.get("sendInitialEvents"):
                    from aiohttp import web  # noqa: PLC0415

                    return web.Response(status=422, text='{"message":"no such thing"}')
                return await original(request, plural)

            server._watch = refuse_streams  # type: ignore[method-assign] # an older server
            async with running(_source(server)) as recorder:
                await recorder.until(lambda: recorder.is_synced)
                assert recorder.names == {"web", "web-1", "node-1"}

    run(scenario())
    assert caplog.messages.count("EndpointSlices are listed in pages: no such thing") == 1


def test_a_mutated_event_costs_one_list_and_loses_nothing(run: Run) -> None:
    async def scenario() -> None:
        async with _scene() as scene:
            server, _, recorder = scene
            server.objects["endpointslices"] = [make_slice("after")]

            await server.push("endpointslices", b'{"type":"DELETED","object":{"kind":"Endp\n')

            await recorder.until(lambda: recorder.names == {"web", "after", "node-1"})
            await recorder.until(lambda: not recorder.problems)
            assert scene.report().errors == {"malformed": 1}

    run(scenario())


def test_work_is_handed_over_in_small_portions(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apiserver, "_BUDGET_S", 0.0)

    async def scenario() -> None:
        async with _scene() as (server, _, recorder):
            before = len(recorder.batches)
            lines = [watch_line("ADDED", slice_at(f"s{n}", 101 + n)) for n in range(20)]
            await server.push("endpointslices", b"".join(lines))
            await recorder.until(lambda: "s19" in recorder.names)

            assert recorder.sizes("EndpointSlice", before) == [1] * 20

    run(scenario())


def test_a_list_that_deletes_much_is_handed_over_in_portions(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apiserver, "_BATCH", 3)

    async def scenario() -> None:
        async with serving() as server:
            server.objects["endpointslices"] = [make_slice(f"s{number}") for number in range(10)]
            async with running(_source(server)) as recorder:
                await recorder.until(lambda: recorder.is_synced)
                await server.until_watched("endpointslices")
                before = len(recorder.batches)
                server.objects["endpointslices"] = []
                await server.push("endpointslices", error(410))
                await recorder.until(lambda: recorder.names == {"web", "node-1"})
                await recorder.until(lambda: recorder.events[-1] == Synced("EndpointSlice"))

                assert recorder.sizes("EndpointSlice", before) == [3, 3, 3, 2]

    run(scenario())


def test_wrong_credentials_end_the_source_at_the_start(run: Run) -> None:
    def load() -> Access:
        raise ConfigError("file: field: wrong")

    async def scenario() -> None:
        async with serving() as server:
            with pytest.raises(ConfigError, match="file: field: wrong"):
                await _source(server, load=load).run(Recorder().deliver)

    run(scenario())


# TLS


class Tls(NamedTuple):
    server: ssl.SSLContext
    ca_file: str


@pytest.fixture
def tls(tmp_path: Any) -> Tls:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca"))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("kubernetes").configure_cert(context)
    return Tls(context, str(tmp_path / "ca"))


def _trusting(ca_file: str) -> ssl.SSLContext:
    return tls_context("test", ca_file=ca_file, cert_file="", key_file="", is_insecure=False)


def test_a_server_that_is_known_is_trusted_under_its_name(run: Run, tls: Tls) -> None:
    async def scenario() -> None:
        async with serving(tls.server) as server:
            access = Access(
                f"https://127.0.0.1:{server.port}",
                _trusting(tls.ca_file),
                {},
                tls_server_name="kubernetes",
            )
            async with running(_source(server, load=lambda: access)) as recorder:
                await recorder.until(lambda: recorder.is_synced)

    run(scenario())


@pytest.mark.parametrize("is_other_authority", [True, False])
def test_a_server_that_is_unknown_or_has_another_name_is_not_asked(
    run: Run, tls: Tls, is_other_authority: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with serving(tls.server) as server:
            access = Access(
                f"https://127.0.0.1:{server.port}",
                _trusting("" if is_other_authority else tls.ca_file),
                {"Authorization": "Bearer secret"},
                tls_server_name="kubernetes" if is_other_authority else "",
            )
            source = _source(server, load=lambda: access)
            async with running(source):
                await _until(lambda: source.report()[1].failures >= 2)
            assert server.requests == []
            assert source.report()[1].errors.keys() == {"connect"}

    run(scenario())
    assert "certificate verify failed" in caplog.text


def test_the_log_warns_of_servers_that_are_not_verified(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with _scene():
            pass

    run(scenario())
    assert "is asked without TLS" in caplog.text
    context = tls_context("x", ca_file="", cert_file="", key_file="", is_insecure=True)
    apiserver._announce(Access("https://a", context, {}, proxy="http://user:hunter2@proxy:3128"))
    assert "the certificate of https://a is not verified" in caplog.text
    assert "API server https://a through http://proxy:3128" in caplog.text


def test_what_is_delivered_was_received_before(run: Run) -> None:
    async def scenario() -> None:
        async with _scene() as (server, _, recorder):
            before_s = time.monotonic()
            await server.push("endpointslices", watch_line("ADDED", slice_at("new", 140)))
            await recorder.until(lambda: "new" in recorder.names)
            assert before_s <= recorder.received[-1] <= time.monotonic()
            [found] = [one for one in recorder.objects.values() if _is_named(one, "new")]
            assert isinstance(found, EndpointSlice)

    run(scenario())


def _is_named(obj: object, name: str) -> bool:
    return isinstance(obj, EndpointSlice) and obj.name == name
