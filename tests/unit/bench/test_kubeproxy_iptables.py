"""The pattern beside which mode iptables is measured works: the packets of every service reach its endpoints."""

from collections.abc import Mapping, Sequence

import pytest

from backends.kernel.xtables_text import Flavour
from bench import kubeproxy_iptables, workload
from bench.kubeproxy_iptables import Pattern
from tests.fakes.packets import Fate, Host, Packet
from tests.fakes.xtables import XtablesKernel

POD, OUTSIDE = "10.255.0.1", "192.0.2.9"
Endpoints = Mapping[int, Sequence[int]]


def restore(kernel: XtablesKernel, text: str) -> None:
    """Have a text carried out, one table after the other, as the program does."""
    for part in text.split("COMMIT\n")[:-1]:
        assert kernel.restore(Flavour.LEGACY, "IPv4", f"{part}COMMIT\n") == ""


def loaded(services: int, endpoints: Endpoints) -> XtablesKernel:
    kernel = XtablesKernel()
    restore(kernel, Pattern(services, 2).sync(endpoints))
    restore(kernel, kubeproxy_iptables.hooks())
    return kernel


def served(kernel: XtablesKernel, service: int, source: str) -> dict[Fate, float]:
    nat, filtered = (kernel.chains(Flavour.LEGACY, "IPv4", table) for table in ("nat", "filter"))
    host = Host(nat, filtered, {}, frozenset())
    packet = Packet(source, workload.cluster_ip(service), "TCP", workload.PORT, "eth0")
    found = host.fates(packet)
    return {fate: round(chance, 6) for fate, chance in found.items()}


def fate(endpoint: int, *, is_masqueraded: bool = False) -> Fate:
    target = f"{workload.endpoint_ip(endpoint)}:{workload.TARGET_PORT}"
    return Fate("served", target, is_masqueraded)


def all_of(services: int) -> dict[int, list[int]]:
    return {number: workload.endpoints_of(number, 2) for number in range(services)}


@pytest.mark.parametrize("service", [0, 1, 119])
def test_every_endpoint_of_a_service_is_as_probable(service: int) -> None:
    kernel = loaded(120, all_of(120))

    first, second = workload.endpoints_of(service, 2)
    assert served(kernel, service, POD) == {fate(first): 0.5, fate(second): 0.5}


def test_who_is_no_pod_and_who_meets_itself_is_masqueraded() -> None:
    kernel = loaded(1, {0: [4, 5, 6]})
    third = 0.333333

    assert served(kernel, 0, OUTSIDE) == {
        fate(each, is_masqueraded=True): third for each in (4, 5, 6)
    }
    assert served(kernel, 0, workload.endpoint_ip(5)) == {
        fate(4): third,
        fate(5, is_masqueraded=True): third,
        fate(6): third,
    }


def test_a_change_leads_to_the_new_endpoint_and_writes_shared_chains_and_those_of_the_service() -> (
    None
):
    kernel = loaded(3, all_of(3))
    pattern = Pattern(3, 2)

    text = pattern.sync({1: [2, 9]})
    restore(kernel, text)

    assert served(kernel, 1, POD) == {fate(2): 0.5, fate(9): 0.5}
    assert served(kernel, 2, POD) == {fate(4): 0.5, fate(5): 0.5}
    written = [
        line for line in text.splitlines() if line.startswith(("-A KUBE-SVC", "-A KUBE-SEP"))
    ]
    assert len(written) == 3 + 2 * 2
    assert sum([line.startswith("-A KUBE-SERVICES") for line in text.splitlines()]) == 3 + 1


def test_the_chain_of_an_endpoint_that_is_gone_can_be_deleted_after_the_change() -> None:
    kernel = loaded(1, all_of(1))
    gone = kubeproxy_iptables.endpoint_chain(0, f"10.128.0.1:{workload.TARGET_PORT}")
    assert gone in kernel.chains(Flavour.LEGACY, "IPv4", "nat")

    restore(kernel, Pattern(1, 2).sync({0: [0, 9]}))
    restore(kernel, kubeproxy_iptables.deletion([gone]))

    assert gone not in kernel.chains(Flavour.LEGACY, "IPv4", "nat")


@pytest.mark.parametrize("at_once", [1, 2, 5])
def test_loaded_in_parts_it_is_the_same(at_once: int) -> None:
    whole, in_parts = loaded(5, all_of(5)), XtablesKernel()

    for text in Pattern(5, 2).parts(all_of(5), at_once):
        restore(in_parts, text)
    restore(in_parts, Pattern(5, 2).sync({}))
    restore(in_parts, kubeproxy_iptables.hooks())

    assert in_parts.chains(Flavour.LEGACY, "IPv4", "nat") == whole.chains(
        Flavour.LEGACY, "IPv4", "nat"
    )


def test_it_has_some_three_rules_for_each_endpoint() -> None:
    text = Pattern(1000, 10).sync({n: workload.endpoints_of(n, 10) for n in range(1000)})

    assert kubeproxy_iptables.rules_in(text) == 32 * 1000 + 8


@pytest.mark.parametrize(("services", "has_comments"), [(100, True), (101, False)])
def test_large_clusters_have_no_comments(services: int, has_comments: bool) -> None:
    text = Pattern(services, 10).sync({0: [1, 2]})

    assert ("--comment" in text) == has_comments
