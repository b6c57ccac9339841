"""In which order a draft is written."""

from backends.ipvs.belief import Observed
from backends.ipvs.draft import Draft
from backends.ipvs.layout import closed
from backends.ipvs.model import ALLOWED, AddressStep, IpvsStep, Operation
from backends.ipvs.order import in_order
from backends.kernel.ipvs_objects import Destination, ServerId, VirtualServer
from backends.kernel.nft_node import SERVICE_CIDRS
from backends.kernel.nft_table import Data
from backends.kernel.nft_transaction import Transaction
from backends.kernel.nft_values import ABSENT, Absent
from tests.unit.backends.ipvs.planning import LAYOUT, WEB, make_belief

KEY = b"key"
SERVER = ServerId("IPv4", "TCP", "10.96.0.10", 80)
MAKE = Operation("add server", SERVER, VirtualServer(SERVER, "rr"), WEB)
END = Operation("del destination", SERVER, Destination("10.1.0.1", 80), WEB)
GONE: Data | Absent = ABSENT


def draft_of(
    observed: Observed,
    wanted: dict[str, Data | Absent],
    *,
    make: bool = False,
    end: bool = False,
    bind: str = "",
    unbind: str = "",
) -> Draft:
    """A draft that asks for one element of each set, perhaps with a message to IPVS and an address before or after."""
    draft = Draft(observed, LAYOUT)
    for name, data in wanted.items():
        draft.values("IPv4", name)[KEY] = (data, WEB)
    draft.make += [MAKE] * make
    draft.end += [END] * end
    draft.addresses |= {bind: (True, WEB)} if bind else {}
    draft.addresses |= {unbind: (False, WEB)} if unbind else {}
    observed.bound |= {unbind: None} if unbind else {}
    return draft


def ordered(
    believed: dict[str, Data], wanted: dict[str, Data | Absent], **others: object
) -> list[str]:
    """What the steps do, in short; elements that are believed have the same key as those that are wanted."""
    observed = make_belief(
        **{name.replace("-", "_"): {KEY: data} for name, data in believed.items()}
    )
    return words(draft_of(observed, wanted, **others))  # type: ignore[arg-type] # its own options


def words(draft: Draft) -> list[str]:
    found = []
    for step in in_order(draft):
        if isinstance(step, Transaction):
            parts = ["structure"] * bool(step.rebuild or step.tables or step.sets or step.chains)
            parts += [f"-{batch.set}" for batch in step.deletes]
            found.append(" ".join(parts + [f"+{batch.set}" for batch in step.adds]))
        elif isinstance(step, IpvsStep):
            found.append(", ".join([each.verb for each in step.operations]))
        else:
            found.append(_address_words(step))
    return found


def _address_words(step: AddressStep) -> str:
    names = ["device"] * step.is_device_missing
    names += [f"bind {address}" for address, _ in step.bind]
    return ", ".join(names + [f"unbind {address}" for address, _ in step.unbind])


def test_what_is_as_wanted_is_not_written() -> None:
    assert ordered({"services": None}, {"services": None, "refused": ABSENT}) == []
    observed = make_belief()
    observed.bound["10.96.0.10"] = None
    assert words(draft_of(observed, {}, bind="10.96.0.10")) == []


def test_a_frontend_changes_its_place_in_one_transaction() -> None:
    wanted: dict[str, Data | Absent] = {"services": None, "refused": ABSENT}

    assert ordered({"refused": None}, wanted) == ["-refused +services"]


def test_ports_are_refused_then_bound_then_served_and_back_in_reverse() -> None:
    address = "10.96.0.10"

    assert ordered({}, {"services": None, "bound": None}, make=True, bind=address) == [
        "+bound", f"bind {address}", "add server", "+services",
    ]  # fmt: skip
    assert ordered(
        {"services": None, "bound": None}, {"services": GONE, "bound": GONE}, end=True, unbind=address
    ) == ["-services", "del destination", f"unbind {address}", "-bound"]  # fmt: skip


def test_where_node_ports_listen_is_known_before_the_rules_ask_for_it() -> None:
    observed = make_belief()
    observed.tables["IPv4"].chains["dispatch"] = closed().facts

    steps = words(draft_of(observed, {"nodeport-ips": None, "nodeports": b"a"}, make=True))

    assert steps == ["structure +nodeport-ips", "add server", "+nodeports"]


def test_ports_of_an_address_that_served_nothing_are_refused_until_it_is_off_too() -> None:
    gone: dict[str, Data | Absent] = {"refused": ABSENT, "bound": ABSENT}

    assert ordered({"refused": None, "bound": None}, gone, unbind="10.96.0.10") == [
        "-refused", "unbind 10.96.0.10", "-bound",
    ]  # fmt: skip


def test_a_short_cut_comes_before_the_list_for_outside_changes_and_goes_after() -> None:
    for mark, short in (("externals", "shortcuts"), ("nodeports", "nodeport-shortcuts")):
        assert ordered({mark: b"a"}, {mark: b"b", short: b"c"}) == [
            f"+{short}", f"-{mark} +{mark}",
        ]  # fmt: skip
        assert ordered({mark: b"b", short: b"c"}, {mark: b"a", short: ABSENT}) == [
            f"-{mark} +{mark}", f"-{short}",
        ]  # fmt: skip


def test_a_short_cut_needs_no_step_of_its_own_where_nothing_is_let_through_anew() -> None:
    assert ordered({"shortcuts": b"a"}, {"shortcuts": b"b"}) == ["-shortcuts +shortcuts"]
    assert ordered({"dropped": None}, {"dropped": ABSENT, "shortcuts": b"c"}) == [
        "-dropped +shortcuts"
    ]
    assert ordered({"dropped": None, "shortcuts": b"c"}, {"shortcuts": ABSENT}) == ["-shortcuts"]


def test_source_ranges_are_in_force_before_the_frontend_and_until_after_it() -> None:
    guarded: dict[str, Data | Absent] = {"externals": b"a", "guarded": None, "allowed": None}

    assert ordered({}, guarded) == ["+guarded +allowed", "+externals"]
    believed: dict[str, Data] = {"externals": b"a", "guarded": None, "allowed": None}
    assert ordered(believed, dict.fromkeys(guarded, ABSENT)) == [
        "-externals", "-guarded -allowed",
    ]  # fmt: skip


def test_ranges_for_a_frontend_are_replaced_at_once_and_those_of_others_go_later() -> None:
    def allowed(first: int, port: int) -> bytes:
        to = bytes([203, 0, 113, 1, 6, 0, 0, 0, 0, port, 0, 0])
        return bytes([first, 0, 0, 0]) + to + bytes([first, 255, 255, 255]) + to

    observed = make_belief(
        allowed={allowed(10, 80): None, allowed(10, 81): None}, externals={KEY: b"a"}
    )
    draft = draft_of(observed, {"externals": ABSENT})
    draft.values("IPv4", ALLOWED).update(
        {
            allowed(10, 80): (ABSENT, WEB),
            allowed(10, 81): (ABSENT, WEB),
            allowed(11, 80): (None, WEB),
        }
    )

    first, then, last = in_order(draft)

    assert isinstance(first, Transaction)
    assert isinstance(then, Transaction)
    assert isinstance(last, Transaction)
    assert [e.key for batch in first.deletes for e in batch.elements] == [allowed(10, 80)]
    assert [e.key for batch in first.adds for e in batch.elements] == [allowed(11, 80)]
    assert [batch.set for batch in then.deletes] == ["externals"]
    assert [e.key for batch in last.deletes for e in batch.elements] == [allowed(10, 81)]


def test_servers_change_in_one_send_unless_frontends_change_in_between() -> None:
    assert ordered({}, {}, make=True, end=True) == ["add server, del destination"]
    assert ordered({"externals": b"a"}, {"externals": b"b"}, make=True, end=True) == [
        "add server", "-externals +externals", "del destination",
    ]  # fmt: skip


def test_what_goes_last_goes_with_the_frontends_if_nothing_comes_in_between() -> None:
    wanted: dict[str, Data | Absent] = {"services": ABSENT, "refused": None, "hairpin": ABSENT}
    believed: dict[str, Data] = {"services": None, "hairpin": None}

    assert ordered(believed, wanted) == ["-services -hairpin +refused"]
    assert ordered(believed, wanted, end=True) == [
        "-services +refused", "del destination", "-hairpin",
    ]  # fmt: skip


def test_a_changed_element_is_deleted_as_believed_and_added_as_wanted() -> None:
    observed = make_belief(externals={KEY: b"old"})

    (step,) = in_order(draft_of(observed, {"externals": b"new"}))

    assert isinstance(step, Transaction)
    assert [(e.data, e.owner) for e in step.deletes[0].elements] == [(b"old", WEB)]
    assert [(e.data, e.owner) for e in step.adds[0].elements] == [(b"new", WEB)]


def test_a_missing_device_is_made() -> None:
    observed = make_belief()
    observed.device = None

    assert words(draft_of(observed, {"services": None}, make=True)) == [
        "device", "add server", "+services",
    ]  # fmt: skip


def test_what_of_the_fixed_part_is_missing_or_changed_is_written_first() -> None:
    observed = make_belief()
    facts = observed.tables["IPv4"]
    chain = LAYOUT.chains("IPv4")[1]
    facts.chains[chain.name] = chain.facts._replace(comments=("another rule",))
    del facts.sets["services"]

    first, *others = in_order(draft_of(observed, {"externals": b"a"}))

    assert isinstance(first, Transaction)
    assert (first.tables, first.chains) == ((), (("IPv4", chain),))
    assert [spec.name for _, spec in first.sets] == ["services"]
    assert len(others) == 1


def test_a_table_is_made_anew_in_one_transaction_with_everything_in_it() -> None:
    observed = make_belief(services={KEY: None})
    observed.tables["IPv4"].has_to_go = True
    wanted: dict[str, Data | Absent] = {
        "services": None, "bound": None, "externals": b"a", "shortcuts": b"b", "guarded": None,
    }  # fmt: skip

    draft = draft_of(observed, wanted, make=True, end=True, bind="10.96.0.10", unbind="10.96.0.11")

    assert words(draft) == [
        "bind 10.96.0.10",
        "add server",
        "structure +bound +guarded +shortcuts +services +externals",
        "del destination",
        "unbind 10.96.0.11",
    ]


def test_ranges_of_services_are_replaced_as_a_whole_in_one_transaction() -> None:
    start, end, further = b"\n\x60\0\0\0", b"\n\x61\0\0\1", b"\n\x62\0\0\1"
    observed = make_belief()
    observed.tables["IPv4"].elements[SERVICE_CIDRS] = {start: None, end: None}
    draft = draft_of(observed, {})
    draft.values("IPv4", SERVICE_CIDRS).update({end: (ABSENT, None), further: (None, None)})

    (step,) = in_order(draft)

    assert isinstance(step, Transaction)
    assert [{e.key for e in batch.elements} for batch in step.deletes] == [{start, end}]
    assert [{e.key for e in batch.elements} for batch in step.adds] == [{start, further}]
