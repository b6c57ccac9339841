from backends.kernel.nft_table import ChainSpec, Data, TableFacts
from backends.kernel.nft_transaction import Batch, Element, Transaction
from backends.nftables.belief import Observed
from backends.nftables.layout import Layout, NftSettings
from backends.nftables.model import SERVICES, NftPlan, Rendered, Target
from proxy.model import Family, PortKey
from tests.model_builders import make_key

LAYOUT = Layout(NftSettings(families=("IPv4",)))
WEB, API = make_key("default/web"), make_key("default/api")


def make_belief(**elements: dict[bytes, Data]) -> Observed:
    """A belief in a table with our sets and these elements, by the name of the set with _ for -."""
    facts = TableFacts()
    facts.is_present = True
    for spec in LAYOUT.sets("IPv4"):
        facts.sets[spec.name] = spec.facts
        facts.elements[spec.name] = dict(elements.pop(spec.name.replace("-", "_"), {}))
    assert not elements
    return Observed({"IPv4": facts}, generation=7)


def element(key: bytes, data: Data = None) -> Element:
    return Element(key, data, WEB)


def occupied(key: PortKey, services_key: bytes | None) -> NftPlan:
    """A plan after which a ServicePort occupies one frontend, or nothing."""
    if services_key is None:
        return NftPlan((), {key: None})
    target = Target("cluster-ip", services_key, services_key, "TCP", 1)
    return NftPlan((), {key: Rendered(targets=(target,))})


# --- transactions


def test_everything_a_transaction_makes_is_believed_afterwards() -> None:
    observed = Observed({"IPv4": TableFacts()})
    chain = LAYOUT.skeleton("IPv4")[0]

    observed.fold(
        Transaction(
            tables=("IPv4",),
            sets=tuple([("IPv4", spec) for spec in LAYOUT.sets("IPv4")]),
            chains=(("IPv4", chain),),
            adds=(Batch("IPv4", SERVICES, (element(b"key", "drop"),)),),
        )
    )

    facts = observed.tables["IPv4"]
    assert facts.is_present
    assert facts.sets == {spec.name: spec.facts for spec in LAYOUT.sets("IPv4")}
    assert facts.chains == {chain.name: chain.facts}
    assert facts.elements[SERVICES] == {b"key": "drop"}


def test_an_element_deleted_and_added_has_its_new_value() -> None:
    observed = make_belief(services={b"one": "drop", b"two": "drop"})

    observed.fold(
        Transaction(
            deletes=(Batch("IPv4", SERVICES, (element(b"one"), element(b"two"))),),
            adds=(Batch("IPv4", SERVICES, (element(b"one", "goto pick-tcp-1"),)),),
        )
    )

    assert observed.tables["IPv4"].elements[SERVICES] == {b"one": "goto pick-tcp-1"}


def test_what_is_gone_is_no_longer_believed() -> None:
    observed = make_belief(refused={b"key": None})
    stranger = ChainSpec("stranger", None, ())
    observed.fold(Transaction(chains=(("IPv4", stranger),)))

    observed.fold(
        Transaction(gone_chains=(("IPv4", "stranger"),), gone_sets=(("IPv4", "refused"),))
    )

    facts = observed.tables["IPv4"]
    assert facts.chains == {}
    assert "refused" not in facts.sets
    assert "refused" not in facts.elements


def test_a_table_made_anew_holds_only_what_was_put_into_it() -> None:
    observed = make_belief(services={b"key": "drop"})
    observed.tables["IPv4"].has_to_go = True

    observed.fold(Transaction(rebuild=("IPv4",), tables=("IPv4",)))

    facts = observed.tables["IPv4"]
    assert (facts.is_present, facts.sets, facts.elements) == (True, {}, {})
    assert not observed.is_rebuild_due


def test_each_transaction_is_a_generation_of_the_ruleset() -> None:
    observed = make_belief()

    observed.fold(Transaction())
    observed.fold(Transaction())

    assert (observed.generation, observed.commits) == (9, 2)


# --- who occupies what


def test_a_service_port_holds_its_frontend_until_it_leaves() -> None:
    observed = make_belief()

    observed.occupy(occupied(WEB, b"frontend"))
    assert observed.holders == {("IPv4", b"frontend"): WEB}
    observed.occupy(occupied(WEB, None))

    assert observed.holders == {}
    assert observed.rendered == {}


def test_a_service_port_that_moves_leaves_its_old_frontend() -> None:
    observed = make_belief()

    observed.occupy(occupied(WEB, b"old"))
    observed.occupy(occupied(WEB, b"new"))

    assert observed.holders == {("IPv4", b"new"): WEB}


def test_who_leaves_a_frontend_late_does_not_take_it_from_its_next_holder() -> None:
    observed = make_belief()
    observed.occupy(occupied(WEB, b"frontend"))

    observed.occupy(occupied(API, b"frontend"))
    observed.occupy(occupied(WEB, None))

    assert observed.holders == {("IPv4", b"frontend"): API}
    assert list(observed.rendered) == [API]


def test_two_that_change_places_at_once_hold_what_they_have_now() -> None:
    observed = make_belief()
    observed.occupy(occupied(WEB, b"one"))
    observed.occupy(occupied(API, b"two"))

    both = occupied(WEB, b"two").rendered | occupied(API, b"one").rendered
    observed.occupy(NftPlan((), both))

    assert observed.holders == {("IPv4", b"one"): API, ("IPv4", b"two"): WEB}


def test_references_are_counted_and_forgotten_at_none() -> None:
    observed = make_belief()
    shared: tuple[Family, str, bytes] = ("IPv4", "cluster-ips", b"address")

    with_it = Rendered(shared=frozenset([shared[1:]]))
    for key, rendered, left in (
        (WEB, with_it, 1), (API, with_it, 2), (WEB, Rendered(), 1), (WEB, None, 1), (API, with_it, 1),
    ):  # fmt: skip
        observed.occupy(NftPlan((), {key: rendered}))
        assert observed.references == {shared: left}
    observed.occupy(NftPlan((), {API: None}))

    assert observed.references == {}


# --- corrections


def test_what_was_read_replaces_what_was_believed_of_those_elements_only() -> None:
    observed = make_belief(services={b"same": "drop", b"gone": "drop", b"other": "drop"})

    read = {b"same": "drop", b"new": "drop"}
    observed.correct("IPv4", SERVICES, [b"same", b"gone", b"new"], read)

    assert set(observed.tables["IPv4"].elements[SERVICES]) == {b"same", b"new", b"other"}


def test_elements_of_a_set_that_was_not_believed_can_be_read() -> None:
    observed = Observed({"IPv4": TableFacts()})

    observed.correct("IPv4", SERVICES, [b"key"], {b"key": "drop"})

    assert observed.tables["IPv4"].elements[SERVICES] == {b"key": "drop"}
