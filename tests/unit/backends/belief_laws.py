"""How beliefs follow what nftables has confirmed, and who occupies what: inherited by a test class of each backend."""

import abc
from collections.abc import Collection, Mapping
from typing import Generic, NamedTuple, Protocol, TypeVar

from backends.kernel import nft_phrases as say
from backends.kernel.nft_table import ChainSpec, Data, TableFacts, declared, rule
from backends.kernel.nft_transaction import Batch, Element, Transaction
from proxy.model import Family, PortKey
from tests.model_builders import make_key

WEB, API = make_key("default/web"), make_key("default/api")
SERVICES, REFUSED = "services", "refused"  # sets that all of these backends have
SHARED = ("shared", b"address")


class Belief(Protocol):
    """What is asked of a belief here."""

    generation: int
    commits: int
    holders: dict[tuple[Family, bytes], PortKey]
    references: dict[tuple[Family, str, bytes], int]

    @property
    def tables(self) -> dict[Family, TableFacts]: ...
    @property
    def is_rebuild_due(self) -> bool: ...
    @property
    def rendered(self) -> Mapping[PortKey, object]: ...


B = TypeVar("B", bound=Belief)


class Occupied(NamedTuple):
    """What a ServicePort has after a plan: keys of frontends, and members of sets that it shares with others."""

    frontends: tuple[bytes, ...] = ()
    shared: tuple[tuple[str, bytes], ...] = ()


def element(key: bytes, data: Data = None) -> Element:
    return Element(key, data, WEB)


class BeliefLaws(abc.ABC, Generic[B]):
    """What a belief does besides is tested beside this."""

    @abc.abstractmethod
    def believe(self, tables: dict[Family, TableFacts], generation: int = 0) -> B:
        """Begin a belief."""

    @abc.abstractmethod
    def fold(self, observed: B, transaction: Transaction) -> None:
        """Have the kernel confirm a transaction."""

    @abc.abstractmethod
    def correct(
        self, observed: B, set_name: str, keys: Collection[bytes], actual: Mapping[bytes, Data]
    ) -> None:
        """Have elements of IPv4 been read."""

    @abc.abstractmethod
    def occupy(self, observed: B, rendered: Mapping[PortKey, Occupied | None]) -> None:
        """Have a plan taken effect."""

    def believe_in(self, **elements: dict[bytes, Data]) -> B:
        """Begin a belief in a table with these sets."""
        facts = TableFacts()
        facts.is_present = True
        facts.sets = {name: declared(name, "ipv4_addr").facts for name in elements}
        facts.elements = {**elements}
        return self.believe({"IPv4": facts}, generation=7)

    # --- transactions

    def test_everything_a_transaction_makes_is_believed_afterwards(self) -> None:
        observed = self.believe({"IPv4": TableFacts()})
        chain = ChainSpec("refuse", None, (rule([say.drop()], "everything"),))
        sets = [declared("services", "ipv4_addr", "mark"), declared("bound", "ipv4_addr")]

        self.fold(
            observed,
            Transaction(
                tables=("IPv4",),
                sets=tuple([("IPv4", spec) for spec in sets]),
                chains=(("IPv4", chain),),
                adds=(Batch("IPv4", SERVICES, (element(b"key", b"mark"),)),),
            ),
        )

        facts = observed.tables["IPv4"]
        assert facts.is_present
        assert facts.sets == {spec.name: spec.facts for spec in sets}
        assert facts.chains == {chain.name: chain.facts}
        assert facts.elements[SERVICES] == {b"key": b"mark"}

    def test_an_element_deleted_and_added_has_its_new_value(self) -> None:
        observed = self.believe_in(services={b"one": "drop", b"two": "drop"})

        self.fold(
            observed,
            Transaction(
                deletes=(Batch("IPv4", SERVICES, (element(b"one"), element(b"two"))),),
                adds=(Batch("IPv4", SERVICES, (element(b"one", "goto pick-tcp-1"),)),),
            ),
        )

        assert observed.tables["IPv4"].elements[SERVICES] == {b"one": "goto pick-tcp-1"}

    def test_a_table_made_anew_holds_only_what_was_put_into_it(self) -> None:
        observed = self.believe_in(services={b"key": None})
        observed.tables["IPv4"].has_to_go = True
        assert observed.is_rebuild_due

        self.fold(observed, Transaction(rebuild=("IPv4",), tables=("IPv4",)))

        facts = observed.tables["IPv4"]
        assert (facts.is_present, facts.sets, facts.elements) == (True, {}, {})
        assert not observed.is_rebuild_due

    def test_each_transaction_is_a_generation_of_the_ruleset_and_one_of_ours(self) -> None:
        observed = self.believe_in()

        self.fold(observed, Transaction())
        self.fold(observed, Transaction())

        assert (observed.generation, observed.commits) == (9, 2)

    # --- who occupies what

    def test_a_service_port_holds_its_frontend_until_it_leaves(self) -> None:
        observed = self.believe_in()

        self.occupy(observed, {WEB: Occupied((b"frontend",))})
        assert observed.holders == {("IPv4", b"frontend"): WEB}
        self.occupy(observed, {WEB: None})

        assert observed.holders == {}
        assert not observed.rendered

    def test_a_service_port_that_moves_leaves_its_old_frontend(self) -> None:
        observed = self.believe_in()

        self.occupy(observed, {WEB: Occupied((b"old",))})
        self.occupy(observed, {WEB: Occupied((b"new",))})

        assert observed.holders == {("IPv4", b"new"): WEB}

    def test_who_leaves_a_frontend_late_does_not_take_it_from_its_next_holder(self) -> None:
        observed = self.believe_in()
        self.occupy(observed, {WEB: Occupied((b"frontend",))})

        self.occupy(observed, {API: Occupied((b"frontend",))})
        self.occupy(observed, {WEB: None})

        assert observed.holders == {("IPv4", b"frontend"): API}
        assert list(observed.rendered) == [API]

    def test_two_that_change_places_at_once_hold_what_they_have_now(self) -> None:
        observed = self.believe_in()
        self.occupy(observed, {WEB: Occupied((b"one",))})
        self.occupy(observed, {API: Occupied((b"two",))})

        self.occupy(observed, {WEB: Occupied((b"two",)), API: Occupied((b"one",))})

        assert observed.holders == {("IPv4", b"one"): API, ("IPv4", b"two"): WEB}

    def test_references_are_counted_and_forgotten_at_none(self) -> None:
        observed = self.believe_in()
        with_it, without = Occupied(shared=(SHARED,)), Occupied()

        for key, rendered, left in (
            (WEB, with_it, 1), (WEB, with_it, 1), (API, with_it, 2), (WEB, without, 1), (WEB, None, 1),
            (API, with_it, 1),
        ):  # fmt: skip
            self.occupy(observed, {key: rendered})
            assert observed.references == {("IPv4", *SHARED): left}
        self.occupy(observed, {API: None})

        assert observed.references == {}

    # --- corrections

    def test_what_was_read_replaces_what_was_believed_of_those_elements_only(self) -> None:
        observed = self.believe_in(services={b"same": None, b"gone": None, b"other": None})

        read: dict[bytes, Data] = {b"same": None, b"new": None, b"unasked": None}
        self.correct(observed, SERVICES, [b"same", b"gone", b"new"], read)

        assert set(observed.tables["IPv4"].elements[SERVICES]) == {b"same", b"new", b"other"}

    def test_elements_of_a_set_that_was_not_believed_can_be_read(self) -> None:
        observed = self.believe({"IPv4": TableFacts()})

        self.correct(observed, REFUSED, [b"key"], {b"key": None})

        assert observed.tables["IPv4"].elements[REFUSED] == {b"key": None}
