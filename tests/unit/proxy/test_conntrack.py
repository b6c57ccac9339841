"""Which tracked flows are stale, and where it is worth looking for them."""

from msgspec import structs

from proxy import conntrack
from proxy.cache import merge
from proxy.conntrack import Belief, Ends, Table, Task
from proxy.desired import DesiredPort, Frontend
from proxy.desired_node import DesiredNode
from proxy.model import IPV4, IPV6, Family
from proxy.netlink.conntrack import Filter
from tests.desired_strategies import make_desired
from tests.fakes.conntrack import make_entry, packed_end
from tests.model_builders import make_endpoint, make_key, make_slice

A, B, C = "10.1.0.1:53", "10.1.0.2:53", "10.1.0.3:53"
VIP = Frontend("ClusterIP", "10.96.0.10", 53)
EXTERNAL = Frontend("ExternalIP", "192.0.2.1", 53)
NODE_PORT = Frontend("NodePort", None, 30053)


def ends(*written: str) -> Ends:
    return frozenset(map(packed_end, written))


def make_port(*endpoints: str, frontends: tuple[Frontend, ...] = (VIP,)) -> DesiredPort:
    made = make_desired("default/dns", *endpoints, protocol="UDP", port=53)
    return structs.replace(made, frontends=frontends)


def make_task(
    *serving: str,
    frontends: tuple[Frontend, ...] = (VIP,),
    fresh: tuple[Frontend, ...] = (),
    bound: tuple[str, ...] = (),
    service: str = "default/dns",
    family: Family = IPV4,
) -> Task:
    return Task(
        key=make_key(service, protocol="UDP", family=family),
        frontends=frozenset(frontends),
        serving=ends(*serving),
        reachable=ends(*serving),
        bound=ends(*bound),
        fresh=frozenset(fresh),
    )


# --- what serves


def test_serving_are_all_endpoints_that_say_so_wherever_they_are_whatever_they_do() -> None:
    slices = [
        make_slice(
            "dns-1",
            make_endpoint("10.1.0.1:53"),
            make_endpoint("10.1.0.2:53", ready=False, terminating=True),
            make_endpoint("10.1.0.3:53", ready=False, serving=False),
            make_endpoint("10.1.0.4:53", ready=False),
            make_endpoint("10.1.0.1:54", is_local=True),
            service="dns",
            protocol="UDP",
        ),
        make_slice("dns-2", make_endpoint("10.1.0.5:53"), service="dns", protocol="TCP"),
        make_slice(
            "dns-3",
            make_endpoint("10.1.0.6:53"),
            service="dns",
            protocol="UDP",
            port_name="other",
        ),
    ]

    found = conntrack.serving(make_key("default/dns", protocol="UDP"), merge(slices))

    assert found == ends("10.1.0.1:53", "10.1.0.2:53", "10.1.0.4:53", "10.1.0.1:54")


def test_nothing_serves_without_slices() -> None:
    assert conntrack.serving(make_key("default/dns", protocol="UDP"), {}) == frozenset()


def test_an_endpoint_of_ipv6_is_written_as_in_entries() -> None:
    endpoint = make_endpoint("[fd00::1]:53")

    assert conntrack.ends([endpoint]) == ends("[fd00::1]:53")


# --- what is stale


def owner(table: Table, destination: str) -> str | None:
    entry = make_entry(destination)
    found = table.owner(entry.family, entry.destination)
    return None if found is None else found.key.name.name


def make_table(*tasks: Task, addresses: tuple[str, ...] = ()) -> Table:
    table = Table(addresses)
    for task in tasks:
        table.add(task)
    return table


def test_an_entry_belongs_to_whose_frontend_it_was_sent_to() -> None:
    table = make_table(
        make_task(A, frontends=(VIP, EXTERNAL), service="default/dns"),
        make_task(A, frontends=(Frontend("ClusterIP", "10.96.0.10", 54),), service="default/web"),
    )

    assert owner(table, "10.96.0.10:53") == "dns"
    assert owner(table, "10.96.0.10:54") == "web"
    assert owner(table, "192.0.2.1:53") == "dns"
    assert owner(table, "192.0.2.1:54") is None
    assert owner(table, "10.96.0.11:53") is None


def test_a_node_port_is_one_on_this_nodes_addresses_only() -> None:
    table = make_table(
        make_task(A, frontends=(NODE_PORT,), service="default/dns"),
        make_task(
            "[fd00::1]:53",
            frontends=(Frontend("NodePort", None, 30054),),
            service="default/six",
            family=IPV6,
        ),
        addresses=("172.18.0.1", "2001:db8::1"),
    )

    assert owner(table, "172.18.0.1:30053") == "dns"
    assert owner(table, "172.18.0.2:30053") is None
    assert owner(table, "[2001:db8::1]:30054") == "six"
    assert owner(table, "[2001:db8::1]:30053") is None
    assert owner(table, "172.18.0.1:30054") is None
    assert owner(table, "127.0.0.1:30053") == owner(table, "127.255.0.9:30053") == "dns"
    assert owner(table, "127.0.0.1:30054") is None
    assert owner(table, "[7f00::1]:30053") is None


def test_an_address_and_port_of_its_own_goes_before_a_node_port() -> None:
    on_node = Frontend("ExternalIP", "172.18.0.1", 30053)
    table = make_table(
        make_task(A, frontends=(NODE_PORT,), service="default/dns"),
        make_task(A, frontends=(on_node,), service="default/web"),
        addresses=("172.18.0.1", "172.18.0.2"),
    )

    assert owner(table, "172.18.0.1:30053") == "web"
    assert owner(table, "172.18.0.2:30053") == "dns"


def test_stale_is_what_is_answered_from_elsewhere_than_a_serving_endpoint() -> None:
    task = make_task(A, B)

    assert not conntrack.is_stale(make_entry("10.96.0.10:53", A), task)
    assert not conntrack.is_stale(make_entry("10.96.0.10:53", B), task)
    assert conntrack.is_stale(make_entry("10.96.0.10:53", C), task)
    assert conntrack.is_stale(make_entry("10.96.0.10:53", "10.1.0.1:54"), task), "the port counts"
    assert conntrack.is_stale(make_entry("10.96.0.10:53"), task), "it was not translated"


def test_nothing_is_stale_while_nothing_serves() -> None:
    task = make_task()

    assert not conntrack.is_stale(make_entry("10.96.0.10:53", A), task)
    assert not conntrack.is_stale(make_entry("10.96.0.10:53"), task)


def test_node_ports_are_served_on_all_addresses_or_on_those_the_settings_leave() -> None:
    host = {"172.18.0.1", "192.0.2.7", "2001:db8::1"}
    loopback = {"127.0.0.1", "127.0.0.53", "::1"}

    def served(**limited: tuple[str, ...] | None) -> frozenset[str]:
        return conntrack.node_addresses(DesiredNode(node_port_addresses=limited), host | loopback)  # type: ignore[arg-type] # families as names

    assert served() == host
    assert served(IPv4=None, IPv6=None) == host
    assert served(IPv4=("172.18.0.1",)) == {"172.18.0.1", "2001:db8::1"}
    assert served(IPv4=("172.18.0.1",), IPv6=()) == {"172.18.0.1"}


# --- where to look


def look(
    port: DesiredPort,
    serving: Ends,
    belief: Belief | None = None,
    programmed: Ends = frozenset(),
    *,
    is_suspect: bool = False,
) -> Task:
    return conntrack.look(port, serving, belief or Belief(), programmed, is_suspect=is_suspect)


def test_a_frontend_that_is_new_is_worth_a_sweep() -> None:
    task = look(make_port(A), ends(A))

    assert task.fresh == {VIP}
    assert task.is_worth_a_sweep


def test_so_is_one_that_comes_later_and_only_that_one() -> None:
    task = look(make_port(A, frontends=(VIP, EXTERNAL)), ends(A), Belief(frozenset({VIP})))

    assert task.fresh == {EXTERNAL}
    assert task.is_worth_a_sweep


def test_an_endpoint_that_comes_is_not() -> None:
    task = look(make_port(A, B), ends(A, B), Belief(frozenset({VIP}), ends(A)))

    assert (task.fresh, task.gone) == (frozenset(), frozenset())
    assert not task.is_worth_a_sweep


def test_an_endpoint_that_goes_is() -> None:
    task = look(make_port(B), ends(B), Belief(frozenset({VIP}), ends(A, B)))

    assert task.gone == ends(A)
    assert task.is_worth_a_sweep


def test_an_endpoint_that_came_and_went_between_two_looks_is_too() -> None:
    task = look(make_port(B), ends(B), Belief(frozenset({VIP}), ends(B)), programmed=ends(A, B))

    assert task.gone == ends(A)


def test_an_endpoint_that_new_flows_are_still_sent_to_counts_as_bound() -> None:
    task = look(make_port(A, B), ends(B), Belief(frozenset({VIP})))

    assert task.gone == ends(A)


def test_what_was_repaired_is_looked_through_whatever_is_believed() -> None:
    task = look(make_port(A), ends(A), Belief(frozenset({VIP}), ends(A)), is_suspect=True)

    assert task.fresh == {VIP}


def test_nowhere_to_go_or_nobody_to_come_is_not_worth_a_sweep() -> None:
    assert not look(make_port(), ends(), Belief(frozenset(), ends(A))).is_worth_a_sweep
    gone = Belief(frozenset({VIP}), ends(B))
    assert not look(make_port(A, frontends=()), ends(A), gone).is_worth_a_sweep


# --- what is believed afterwards


def test_without_a_sweep_flows_may_be_bound_to_all_that_ever_was() -> None:
    task = look(make_port(A), ends(A), Belief(frozenset({VIP}), ends(A)), programmed=ends(B))

    assert conntrack.unswept(task) == Belief(frozenset({VIP}), ends(A, B), ends(B))


def test_while_nothing_serves_untranslated_flows_may_begin_through_any_frontend() -> None:
    task = look(make_port(), ends(), Belief(frozenset({VIP}), ends(A)))

    assert conntrack.unswept(task) == Belief(frozenset(), ends(A), ends(A))


def test_after_a_sweep_flows_are_bound_to_what_still_serves() -> None:
    task = look(make_port(B), ends(B, C), Belief(frozenset({VIP}), ends(A, B, C)))

    assert conntrack.swept(task, ()) == Belief(frozenset({VIP}), ends(B, C), ends(C))


def test_after_a_sweep_that_saw_every_flow_they_are_bound_to_what_was_seen() -> None:
    task = look(make_port(B), ends(B, C), is_suspect=True)

    assert conntrack.swept(task, ends(C)) == Belief(frozenset({VIP}), ends(B, C), ends(C))
    assert conntrack.swept(task, ()) == Belief(frozenset({VIP}), ends(B))


# --- how to look

V4_53 = Filter(IPV4, bytes([10, 96, 0, 10]), b"\0\x35")


def test_a_new_frontend_is_looked_through_whole_another_for_what_has_gone() -> None:
    task = make_task(A, frontends=(VIP, EXTERNAL), fresh=(EXTERNAL,), bound=(B,))

    assert sorted(conntrack.filters([task])) == sorted(
        [
            V4_53._replace(source=packed_end(B)),
            Filter(IPV4, bytes([192, 0, 2, 1]), b"\0\x35"),
        ]
    )


def test_a_node_port_is_looked_for_by_its_port() -> None:
    task = make_task(A, frontends=(NODE_PORT,), fresh=(NODE_PORT,))

    assert conntrack.filters([task]) == [Filter(IPV4, port=(30053).to_bytes(2, "big"))]


def test_what_has_much_in_common_is_looked_for_in_one_walk() -> None:
    several_gone = make_task(A, bound=(B, C))
    several_frontends = make_task(A, frontends=(VIP, EXTERNAL, NODE_PORT), bound=(B,))

    assert conntrack.filters([several_gone]) == [
        V4_53._replace(source=b"\0\x35", is_translated=True)
    ]
    assert conntrack.filters([several_frontends]) == [
        Filter(IPV4, source=packed_end(B), is_translated=True)
    ]
    new = make_task(A, frontends=(EXTERNAL,), fresh=(EXTERNAL,), bound=(C,), service="default/new")
    assert conntrack.filters([new, several_frontends])[1:] == [
        Filter(IPV4, source=packed_end(B), is_translated=True)
    ]


def test_what_has_nothing_in_common_but_ports_is_looked_for_one_by_one_unless_it_is_much() -> None:
    one = make_task(A, bound=(B,))
    others = [
        make_task(
            A,
            frontends=(Frontend("ClusterIP", f"10.96.0.{n}", 53 + n // 30),),
            bound=(f"10.1.0.{n}:53",),
            service=f"default/s{n}",
        )
        for n in (20, 30)
    ]

    assert sorted(conntrack.filters([one, others[0]])) == sorted(
        [
            V4_53._replace(source=packed_end(B)),
            Filter(IPV4, bytes([10, 96, 0, 20]), b"\0\x35", packed_end("10.1.0.20:53")),
        ]
    )
    assert conntrack.filters([one, *others]) == [
        Filter(IPV4, source=b"\0\x35", is_translated=True)
    ]
    assert conntrack.filters([one, *others, make_task(A, bound=("10.1.0.4:54",))]) == [
        Filter(IPV4, is_translated=True)
    ]


def test_many_new_frontends_are_looked_for_in_one_walk_through_everything() -> None:
    def task(count: int) -> Task:
        found = tuple([Frontend("ExternalIP", f"192.0.2.{n}", 53) for n in range(count)])
        return make_task(A, frontends=found, fresh=found, bound=(B,))

    assert len(conntrack.filters([task(conntrack.MOST_FRESH)])) == conntrack.MOST_FRESH
    assert conntrack.filters([task(conntrack.MOST_FRESH + 1)]) == [Filter(IPV4)]


def test_new_frontends_are_looked_through_beside_the_walk_for_what_has_gone() -> None:
    task = make_task(A, frontends=(VIP, EXTERNAL), fresh=(EXTERNAL,), bound=(B, C, "10.1.0.4:53"))

    assert sorted(conntrack.filters([task])) == sorted(
        [
            V4_53._replace(source=b"\0\x35", is_translated=True),
            Filter(IPV4, bytes([192, 0, 2, 1]), b"\0\x35"),
        ]
    )


def test_families_are_looked_through_apart() -> None:
    six = make_task(
        "[fd00::1]:53",
        frontends=(Frontend("ClusterIP", "fd00::a", 53),),
        bound=("[fd00::2]:53",),
        family=IPV6,
    )

    assert [each.family for each in conntrack.filters([six, make_task(A, bound=(B,))])] == [
        IPV4,
        IPV6,
    ]
    assert conntrack.filters([]) == []
