"""What a plan asks for, and in which order."""

import asyncio

import pytest

from backends.ipvs.layout import IpvsSettings
from backends.ipvs.model import DEVICE, AddressStep, IpvsStep, Step
from backends.ipvs.planned import IpvsPlan
from backends.ipvs.render import read_mark
from backends.kernel.ipvs import Ipvs
from backends.kernel.ipvs_messages import new_destination, new_server
from backends.kernel.ipvs_objects import Destination, Load, ServerId, VirtualServer, marked
from backends.kernel.links import Links
from backends.kernel.nft_transaction import Transaction
from proxy.desired import DesiredPort, Frontend
from proxy.model import FAMILIES
from tests.desired_strategies import make_desired, whole
from tests.model_builders import make_endpoint
from tests.unit.backends.ipvs.driving import CIDRS, Kernel, Process

VIP = Frontend("LoadBalancer", "203.0.113.1", 80)
NODE_PORT = Frontend("NodePort", None, 30080)
WEB_SERVER = ServerId("IPv4", "TCP", "10.96.0.10", 80)
HERE = make_endpoint("10.1.9.9:80", is_local=True)


def started(*ports: DesiredPort, settings: IpvsSettings | None = None) -> Process:
    process = Process(Kernel(), settings=settings)
    asyncio.run(process.adopt(*ports))
    return process


def planned(process: Process, *ports: DesiredPort) -> IpvsPlan:
    desired = whole({port.key: port for port in ports})
    keys = [
        *desired.ports,
        *[key for key in process.observed.rendered if key not in desired.ports],
    ]
    return process.backend.plan(desired, process.observed, keys)


def words(steps: tuple[Step, ...]) -> list[str]:
    """What each step does, in short."""
    found = []
    for step in steps:
        if isinstance(step, Transaction):
            gone = [f"-{batch.set}" for batch in step.deletes]
            found.append(" ".join([*gone, *[f"+{batch.set}" for batch in step.adds]]))
        elif isinstance(step, IpvsStep):
            found.append(", ".join(dict.fromkeys(each.verb for each in step.operations)))
        else:
            found.append("bind" if step.bind else "unbind")
    return found


def test_a_new_address_is_refused_then_bound_then_served_and_back_in_reverse() -> None:
    process = started()
    web = make_desired("default/web", make_endpoint("10.1.0.1:80", node_name="n2"))

    plan = planned(process, web)
    assert words(plan.steps) == [
        "+bound", "bind", "add server, add destination", "+services",
    ]  # fmt: skip

    asyncio.run(process.backend.apply(plan, process.observed))
    assert words(planned(process).steps) == ["-services", "del server", "unbind", "-bound"]


def test_a_replaced_endpoint_is_one_send() -> None:
    one, other = (
        make_desired("default/web", make_endpoint(address, node_name="n2"))
        for address in ("10.1.0.1:80", "10.1.0.2:80")
    )

    assert words(planned(started(one), other).steps) == ["add destination, set destination"]


def test_a_new_list_is_there_before_frontends_lead_to_it_and_the_old_one_goes_after() -> None:
    cluster = make_desired("default/web", HERE, "10.1.0.1:80", outer=(VIP, NODE_PORT))
    local = make_desired(
        "default/web", HERE, "10.1.0.1:80", outer=(VIP, NODE_PORT), external_local=True
    )

    assert words(planned(started(cluster), local).steps) == [
        "add server, add destination",
        "+shortcuts +nodeport-shortcuts",
        "-externals -nodeports +externals +nodeports",
        "set destination",
    ]
    assert words(planned(started(local), cluster).steps) == [
        "add server, add destination",
        "-externals -nodeports +externals +nodeports",
        "-shortcuts -nodeport-shortcuts",
        "set destination",
    ]


def test_source_ranges_are_in_force_before_a_vip_is_served_and_until_after_it() -> None:
    process = started(make_desired("default/web", "10.1.0.1:80"))
    guarded = make_desired(
        "default/web", "10.1.0.1:80", outer=(VIP,), source_ranges=("192.0.2.0/24",)
    )

    plan = planned(process, guarded)
    assert words(plan.steps) == [
        "+bound +guarded +allowed", "bind", "add server, add destination", "+externals",
    ]  # fmt: skip

    asyncio.run(process.backend.apply(plan, process.observed))
    gone = words(planned(process, make_desired("default/web", "10.1.0.1:80")).steps)
    assert gone.index("-externals") < [("-guarded" in each) for each in gone].index(True)


def test_other_ranges_replace_those_they_may_overlap_with_in_one_transaction() -> None:
    def ranged(cidr: str) -> DesiredPort:
        return make_desired("default/web", "10.1.0.1:80", outer=(VIP,), source_ranges=(cidr,))

    steps = planned(started(ranged("10.0.0.0/8")), ranged("10.0.0.0/16")).steps

    assert words(steps) == ["-allowed +allowed"]


def test_an_address_of_another_interface_is_not_bound() -> None:
    kernel = Kernel()
    kernel.links.add("eth0", "", "203.0.113.1")
    process = Process(kernel)
    web = make_desired("default/web", "10.1.0.1:80", outer=(VIP,))
    asyncio.run(process.adopt(web))

    assert list(process.observed.bound) == ["10.96.0.10"]
    elements = process.observed.tables["IPv4"].elements
    assert (len(elements["bound"]), len(elements["elsewhere"])) == (1, 1)


def test_a_virtual_server_of_somebody_else_at_an_address_of_another_interface_stays_as_it_is() -> (
    None
):
    kernel = Kernel()
    kernel.links.add("eth0", "", "203.0.113.1")
    theirs = VirtualServer(ServerId("IPv4", "TCP", "203.0.113.1", 80), "wlc")
    destination = Destination("192.0.2.9", 80)
    with kernel.entered(), Ipvs() as ipvs:
        add = [new_server(theirs), new_destination(theirs.id, destination)]
        assert not ipvs.carry_out(add)
    process = Process(kernel)
    asyncio.run(process.adopt(make_desired("default/web", "10.1.0.1:80", outer=(VIP,))))
    asyncio.run(process.adopt())

    with kernel.entered(), Ipvs() as ipvs:
        assert theirs in ipvs.list_servers()
        assert [each for each, _ in ipvs.list_destinations(theirs.id)] == [destination]


def test_a_cluster_ip_that_is_replaced_leaves_nothing_that_a_later_process_would_not_know() -> (
    None
):
    kernel = Kernel()
    process = Process(kernel)
    server = ServerId("IPv4", "TCP", "10.96.0.10", 80)
    asyncio.run(process.adopt(make_desired("default/web", "10.1.0.1:80")))
    kernel.ipvs.count(server, "10.1.0.1", 80, Load(1, 0, 0))

    moved = make_desired("default/web", "10.1.0.1:80", cluster_ip="10.96.0.11")
    asyncio.run(process.program(moved))

    with kernel.entered(), Ipvs() as ipvs:
        (left,) = ipvs.list_servers()
    assert left.id == server._replace(address="10.96.0.11")


def test_who_took_a_frontend_over_while_nobody_ran_does_not_take_over_the_rest() -> None:
    kernel = Kernel()
    other_vip = VIP._replace(address="203.0.113.2")
    asyncio.run(
        Process(kernel).adopt(make_desired("default/web", "10.1.0.1:80", outer=(VIP, other_vip)))
    )
    second = Process(kernel)
    with kernel.entered():
        second.observed = asyncio.run(second.backend.observe())
    web = make_desired("default/web", "10.1.0.1:80", outer=(other_vip,))
    api = make_desired("default/api", "10.1.0.2:80", cluster_ip="10.96.0.11", outer=(VIP,))

    def endpoints_behind(address: bytes) -> list[str]:
        marks = second.observed.tables["IPv4"].elements["externals"]
        (mark,) = [read_mark(data) for key, data in marks.items() if key[:4] == address]  # type: ignore[arg-type] # all are marks
        return list(kernel.destinations(marked("IPv4", mark)))

    desired = whole({port.key: port for port in (api, web)})
    for port in (api, web):  # one chunk after the other
        plan = second.backend.plan(desired, second.observed, [port.key])
        asyncio.run(second.backend.apply(plan, second.observed))
        assert endpoints_behind(bytes([203, 0, 113, 1])) == ["10.1.0.2:80"]
        assert endpoints_behind(bytes([203, 0, 113, 2])) == ["10.1.0.1:80"]


def test_what_kube_proxy_has_bound_is_bound_by_us_too() -> None:
    kernel = Kernel()
    kernel.links.add("kube-ipvs0", "dummy", "10.96.0.10", "203.0.113.1")
    process = Process(kernel)
    asyncio.run(process.adopt(make_desired("default/web", "10.1.0.1:80", outer=(VIP,))))

    assert sorted(process.observed.bound) == ["10.96.0.10", "203.0.113.1"]


def test_destinations_of_a_new_server_begin_where_this_node_begins() -> None:
    web = make_desired("default/web", "10.1.0.1:80", "10.1.0.2:80", "10.1.0.3:80")
    settings = IpvsSettings(families=FAMILIES, cluster_cidrs=CIDRS, offset=1)
    process = started(web, settings=settings)

    assert [place[0] for place in process.observed.destinations[WEB_SERVER]] == [
        "10.1.0.2", "10.1.0.3", "10.1.0.1",
    ]  # fmt: skip


def test_a_server_of_somebody_else_at_a_cluster_ip_is_taken_over_with_its_destinations() -> None:
    kernel = Kernel()
    web = make_desired("default/web", "10.1.0.1:80")
    with kernel.entered(), Ipvs() as ipvs:
        messages = [
            new_server(VirtualServer(WEB_SERVER, "rr")),
            new_destination(WEB_SERVER, Destination("10.1.0.1", 80)),
        ]
        assert not ipvs.carry_out(messages)

    process = Process(kernel)
    asyncio.run(process.adopt())
    assert not process.observed.servers
    plan = planned(process, web)
    assert "add server" not in " ".join(words(plan.steps))
    asyncio.run(process.backend.apply(plan, process.observed))
    assert list(process.observed.servers) == [WEB_SERVER]


@pytest.mark.parametrize("is_wanted", [False, True])
def test_where_our_device_was_removed_our_rules_say_which_servers_are_ours(
    is_wanted: bool,
) -> None:
    """While no process of ours ran, so that nobody remembers."""
    kernel = Kernel()
    web = make_desired("default/web", "10.1.0.1:80")
    asyncio.run(Process(kernel).adopt(web))
    with kernel.entered(), Links() as links, Ipvs() as ipvs:
        links.remove_dummy(DEVICE)
        foreign = VirtualServer(WEB_SERVER._replace(port=81), "rr")
        assert not ipvs.carry_out([new_server(foreign)])

    second = Process(kernel)
    asyncio.run(second.adopt(*[web] * is_wanted))

    with kernel.entered(), Ipvs() as ipvs:
        left = [server.id.port for server in ipvs.list_servers()]
    # the address is ours again, and so is what was at it meanwhile
    assert left == ([80] if is_wanted else [81])
    assert bool(kernel.destinations(WEB_SERVER)) == is_wanted


@pytest.mark.parametrize("excluded", [(), ("10.96.0.0/16",)])
def test_a_leftover_in_an_excluded_range_stays(excluded: tuple[str, ...]) -> None:
    kernel = Kernel()
    settings = IpvsSettings(families=FAMILIES, cluster_cidrs=CIDRS, exclude_cidrs=excluded)
    asyncio.run(
        Process(kernel, settings=settings).adopt(make_desired("default/web", "10.1.0.1:80"))
    )
    second = Process(kernel, settings=settings)
    asyncio.run(second.adopt())

    assert bool(second.observed.servers) == bool(excluded)


@pytest.mark.parametrize("is_cleanup", [False, True])
def test_nothing_stays_under_the_marks_of_another_masquerade_bit(is_cleanup: bool) -> None:
    kernel = Kernel()
    web = make_desired("default/web", "10.1.0.1:80", outer=(VIP,))
    asyncio.run(Process(kernel).adopt(web))
    other = IpvsSettings(families=FAMILIES, cluster_cidrs=CIDRS, masquerade_mark=0x80)
    second = Process(kernel, settings=other)
    if is_cleanup:
        with kernel.entered():
            asyncio.run(second.backend.cleanup())
    else:
        asyncio.run(second.adopt(web))

    with kernel.entered(), Ipvs() as ipvs:
        left = [server.id.mark for server in ipvs.list_servers() if server.id.mark]
    wanted = [] if is_cleanup else [second.observed.rendered[web.key].marked[0].mark]
    assert left == wanted


def test_every_step_says_what_it_does_and_for_whom() -> None:
    plan = planned(started(), make_desired("default/web", "10.1.0.1:80", outer=(VIP,)))

    lines = plan.describe()
    assert any("bind 203.0.113.1  # default/web" in line for line in lines)
    assert any("add destination TCP 10.96.0.10:80 10.1.0.1:80 weight 1" in line for line in lines)
    assert all("default/web" in line for line in lines)
    assert any(isinstance(step, AddressStep) for step in plan.steps)
