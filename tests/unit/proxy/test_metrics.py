"""The registries as a whole: what a scraper reads, in either format."""

from prometheus_client import generate_latest
from prometheus_client.exposition import choose_encoder
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text

from proxy import metrics
from proxy.sources.events import Upsert
from tests.model_builders import make_endpoint, make_node, make_service, make_slice
from tests.unit.proxy.metrics.measured import TIMEOUT_S, Measured, series


def measured() -> Measured:
    made = Measured([Upsert(make_service()), Upsert(make_slice("s-1", make_endpoint()))])
    made.work()
    return made


def test_both_formats_are_valid_and_say_the_same() -> None:
    registry = measured().registry()

    encode, _ = choose_encoder("application/openmetrics-text; version=1.0.0")
    # the strict parser of the client library has no types
    strict = openmetrics.text_string_to_metric_families(encode(registry).decode())  # type: ignore[no-untyped-call]
    text = {family.name for family in read_text(generate_latest(registry).decode())}

    assert {family.name for family in strict} == text
    assert len(text) > 40


def test_every_metric_has_a_sentence_and_is_there_once() -> None:
    families = list(measured().registry().collect())

    assert all(family.documentation for family in families)
    found = [family.name for family in families]
    assert len(found) == len(set(found))


def test_nothing_tells_when_it_was_created() -> None:
    assert b"_created" not in generate_latest(measured().registry())


def test_a_name_that_ends_like_a_counter_and_is_none_has_no_type() -> None:
    text = generate_latest(measured().registry()).decode()

    assert "# TYPE kubeproxy_sync_proxy_rules_no_local_endpoints_total untyped" in text
    assert "# TYPE kubeproxy_sync_proxy_rules_endpoint_changes_total counter" in text


def test_process_and_interpreter_are_measured_too() -> None:
    found = measured().series()

    assert found["process_resident_memory_bytes"] > 0
    assert any(name.startswith("python_gc_collections_total") for name in found)
    assert any(name.startswith("python_info") for name in found)


def test_the_indicators_are_the_health_checks() -> None:
    one = Measured([Upsert(make_node(leaving="it is deleted"))])
    registry = metrics.indicators(one.reconciler, TIMEOUT_S)
    check = 'kubernetes_healthcheck{{name="{}",type="{}"}}'.format

    one.reconciler.cache.apply([Upsert(make_node(leaving="it is deleted"))], 0.0)
    before = series(registry)
    one.reconciler.cache.apply([Upsert(make_node())], 0.0)
    one.work()
    after = series(registry)
    one.now_s -= 1000.0
    one.reconciler.progress.opened(one.now_s)
    late = series(registry)

    assert before == {
        check("ping", "healthz"): 1.0,
        check("node-eligible", "healthz"): 0.0,
        check("first-sync", "readyz"): 0.0,
    }
    assert set(after.values()) == {1.0}
    assert late[check("proxier-IPv4", "livez")] == late[check("proxier-IPv6", "livez")] == 0.0
    assert late[check("ping", "healthz")] == 1.0
