"""kube-proxy's metrics: its names, labels and bounds, with what they mean."""

import time

import pytest

from proxy.sources.events import Delete, Upsert
from tests.model_builders import (
    make_endpoint,
    make_node,
    make_service,
    make_service_port,
    make_slice,
)
from tests.unit.proxy.metrics.measured import Measured

V6 = make_service("default/six", make_service_port(cluster_ip="fd00::10"))


def test_names_and_labels_are_those_of_kube_proxy() -> None:
    names = {
        name
        for name in Measured().series("kubeproxy_")
        if "_bucket" not in name and "IPv6" not in name and '"503"' not in name
    }

    sync = "kubeproxy_sync_proxy_rules"
    timed = (
        sync,
        "kubeproxy_sync_full_proxy_rules",
        "kubeproxy_sync_partial_proxy_rules",
        "kubeproxy_network_programming",
        "kubeproxy_conntrack_reconciler_sync",
    )
    assert names == {
        *[f'{name}_duration_seconds_{part}{{ip_family="IPv4"}}' for name in timed for part in ("count", "sum")],
        f'{sync}_last_timestamp_seconds{{ip_family="IPv4"}}',
        f"{sync}_endpoint_changes_pending",
        f"{sync}_endpoint_changes_total",
        f"{sync}_service_changes_pending",
        f"{sync}_service_changes_total",
        f'{sync}_no_local_endpoints_total{{ip_family="IPv4",traffic_policy="external"}}',
        f'{sync}_no_local_endpoints_total{{ip_family="IPv4",traffic_policy="internal"}}',
        f'{sync}_nftables_sync_failures_total{{ip_family="IPv4"}}',
        f'{sync}_nftables_cleanup_failures_total{{ip_family="IPv4"}}',
        'kubeproxy_conntrack_reconciler_deleted_entries_total{ip_family="IPv4"}',
        'kubeproxy_proxy_healthz_total{code="200"}',
        'kubeproxy_proxy_livez_total{code="200"}',
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "bounds"),
    [
        ("sync_proxy_rules", [0.001 * 2**power for power in range(15)]),
        ("conntrack_reconciler_sync", [0.001 * 2**power for power in range(15)]),
        ("sync_full_proxy_rules", [0.001 * 2**power for power in range(15)]),
        ("sync_partial_proxy_rules", [0.001 * 2**power for power in range(15)]),
        (
            "network_programming",
            [0, 0.25, 0.5, *range(1, 60), *range(60, 120, 5), 120, 150, 180, 210, 240, 270, 300],
        ),
    ],
)
def test_bounds_are_those_of_kube_proxy(name: str, bounds: list[float]) -> None:
    found = Measured().series(f"kubeproxy_{name}_duration_seconds_bucket")

    les = [series.partition('le="')[2].rstrip('"}') for series in found if "IPv4" in series]
    assert [float(le) for le in les] == [*bounds, float("inf")]


def test_what_belongs_to_nftables_is_only_there_in_its_mode() -> None:
    assert Measured().series("kubeproxy_sync_proxy_rules_nftables", mode="null") == {}


def test_changes_count_and_wait_until_a_round_takes_them() -> None:
    measured = Measured([Upsert(make_service()), Upsert(make_slice("s-1", make_endpoint()))])
    name = "kubeproxy_sync_proxy_rules_{}_changes_{}".format

    before = measured.series("kubeproxy_sync")
    measured.work()
    after = measured.series("kubeproxy_sync")

    assert [before[name(kind, "pending")] for kind in ("endpoint", "service")] == [1.0, 1.0]
    assert [after[name(kind, "pending")] for kind in ("endpoint", "service")] == [0.0, 0.0]
    assert [after[name(kind, "total")] for kind in ("endpoint", "service")] == [1.0, 1.0]


def test_a_round_is_timed_for_its_families() -> None:
    measured = Measured([Upsert(make_service())])
    started_s = time.time()
    measured.work()
    measured.reconciler.cache.apply([Upsert(V6)], measured.now_s + 5.0)
    measured.work()

    found = measured.series("kubeproxy_sync")
    kinds = ("sync_proxy_rules", "sync_full_proxy_rules", "sync_partial_proxy_rules")
    count = 'kubeproxy_{}_duration_seconds_count{{ip_family="{}"}}'.format
    assert [found[count(kind, "IPv4")] for kind in kinds] == [1.0, 1.0, 0.0]
    assert [found[count(kind, "IPv6")] for kind in kinds] == [2.0, 1.0, 1.0]
    last = 'kubeproxy_sync_proxy_rules_last_timestamp_seconds{{ip_family="{}"}}'.format
    assert started_s <= found[last("IPv4")] <= found[last("IPv6")] <= time.time()


def test_the_last_queued_time_is_that_of_the_last_change_on_the_wall_clock() -> None:
    measured = Measured()
    measured.work()
    unix_ahead_s = time.time() - time.monotonic()
    measured.reconciler.cache.apply([Upsert(V6)], measured.now_s + 500.0)

    found = measured.series("kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds")
    assert list(found.values()) == [
        pytest.approx(unix_ahead_s + measured.now_s, abs=50.0),  # the loop began
        pytest.approx(unix_ahead_s + measured.now_s + 500.0, abs=50.0),
    ]


def test_each_changed_slice_counts_once_from_its_trigger() -> None:
    measured = Measured([Upsert(make_service())])
    measured.work()
    now = time.time()
    slices = [
        make_slice(f"s-{number}", make_endpoint(f"10.1.0.{number}:80"), triggered_s=now - 200.0)
        for number in range(3)
    ]
    measured.reconciler.cache.apply(map(Upsert, slices), measured.now_s)
    measured.work()

    found = measured.series("kubeproxy_network_programming_duration_seconds")
    name = "kubeproxy_network_programming_duration_seconds"
    assert found[f'{name}_count{{ip_family="IPv4"}}'] == 3.0
    assert found[f'{name}_count{{ip_family="IPv6"}}'] == 0.0
    assert found[f'{name}_sum{{ip_family="IPv4"}}'] == pytest.approx(600.0, abs=60.0)


def test_service_ports_that_drop_for_want_of_a_local_endpoint_are_counted() -> None:
    ip = "10.96.0.{}".format
    ports = {
        "inside": make_service_port(cluster_ip=ip(1), internal_local=True),
        "outside": make_service_port(cluster_ip=ip(2), external_local=True, node_port=30002),
        "only-inside": make_service_port(cluster_ip=ip(3), external_local=True),
        "local": make_service_port(cluster_ip=ip(4), internal_local=True),
        "empty": make_service_port(cluster_ip=ip(5), internal_local=True),
        "cluster": make_service_port(cluster_ip=ip(6)),
    }
    slices = [
        make_slice(f"s-{name}", make_endpoint(is_local=name == "local"), service=name)
        for name in ports
        if name != "empty"
    ]
    services = [make_service(f"default/{name}", port) for name, port in ports.items()]
    measured = Measured([*map(Upsert, services), *map(Upsert, slices)])
    measured.work()

    found = measured.series("kubeproxy_sync_proxy_rules_no_local_endpoints_total")
    assert {name for name, value in found.items() if value} == {
        'kubeproxy_sync_proxy_rules_no_local_endpoints_total{ip_family="IPv4",traffic_policy="internal"}',
        'kubeproxy_sync_proxy_rules_no_local_endpoints_total{ip_family="IPv4",traffic_policy="external"}',
    }
    assert max(found.values()) == 1.0


def test_answers_count_by_status() -> None:
    measured = Measured()
    measured.meter.answered("healthz", 503)
    measured.meter.answered("livez", 200)

    found = measured.series("kubeproxy_proxy")
    assert found == {
        'kubeproxy_proxy_healthz_total{code="200"}': 0.0,
        'kubeproxy_proxy_healthz_total{code="503"}': 1.0,
        'kubeproxy_proxy_livez_total{code="200"}': 1.0,
        'kubeproxy_proxy_livez_total{code="503"}': 0.0,
    }


def test_failures_of_rounds_and_of_cleaning_up_are_counted() -> None:
    measured = Measured()
    measured.reconciler.prune_failures = 2
    measured.meter.families["IPv6"].failures = 3

    found = measured.series("kubeproxy_sync_proxy_rules_nftables")
    assert list(found.values()) == [0.0, 3.0, 2.0, 2.0]


def test_a_deleted_node_changes_nothing_here() -> None:
    measured = Measured([Upsert(make_service())])
    before = measured.series("kubeproxy_sync_proxy_rules_service")

    measured.reconciler.cache.apply([Delete("Node", "", "n1"), Upsert(make_node())], 1.0)

    assert measured.series("kubeproxy_sync_proxy_rules_service") == before


def test_deleted_flows_and_how_long_that_took_are_counted_by_family() -> None:
    measured = Measured()
    measured.sweeper.families["IPv6"].deleted = 3
    measured.sweeper.families["IPv6"].durations.observe(0.25)

    found = measured.series("kubeproxy_conntrack_reconciler")

    name = 'kubeproxy_conntrack_reconciler_{}{{ip_family="{}"}}'
    assert found[name.format("deleted_entries_total", "IPv6")] == 3
    assert found[name.format("deleted_entries_total", "IPv4")] == 0
    assert found[name.format("sync_duration_seconds_sum", "IPv6")] == 0.25
    assert found[name.format("sync_duration_seconds_count", "IPv6")] == 1
    assert found[name.format("sync_duration_seconds_count", "IPv4")] == 0
