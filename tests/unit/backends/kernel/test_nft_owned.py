"""Tables of ours on a fake of nf_tables: what is written, blamed, read back and removed. Those of mode nftables stand for all."""

import errno
from collections.abc import Sequence

import pytest

from backends.kernel import nft_elements, nft_messages
from backends.kernel.nft import Nft, Refusal, Refused
from backends.kernel.nft_numbers import NFPROTO_IPV4
from backends.kernel.nft_owned import RefusedElements
from backends.kernel.nft_table import TableFacts
from backends.kernel.nft_transaction import Batch, Element, Transaction, pack_element
from backends.nftables.belief import Observed
from backends.nftables.kernel import OURS
from backends.nftables.layout import Layout, NftSettings
from backends.nftables.model import PROBE_TABLE, REFUSED, SERVICES, TABLE
from backends.nftables.plan import plan
from proxy.model import FAMILIES, PortKey
from proxy.netlink.codec import Request
from tests.desired_strategies import desired_state, make_desired, whole
from tests.model_builders import make_key

LAYOUT = Layout(NftSettings(families=FAMILIES))
WEB, API = make_key("default/web"), make_key("default/api")


def furnish(nft: Nft) -> Observed:
    """Program two services; return the belief."""
    desired = desired_state(
        make_desired("default/web", "10.1.0.1:80", "10.1.0.2:80", "10.1.0.3:80"),
        make_desired("default/api", "[fd00::1]:80", cluster_ip="fd00:10:96::1"),
    )
    observed = Observed({family: TableFacts() for family in FAMILIES}, nft.generation())
    planned = plan(whole(desired), observed, list(desired), LAYOUT)
    for transaction in planned.transactions:
        OURS.commit(nft, transaction)
        observed.fold(transaction)
    observed.occupy(planned)
    return observed


def facts(tables: dict[object, TableFacts] | object) -> object:
    assert isinstance(tables, dict)
    return {family: vars(table) for family, table in tables.items()}


def adding(*elements: tuple[bytes, PortKey | None]) -> Transaction:
    batch = tuple([Element(key, "drop", owner) for key, owner in elements])
    return Transaction(adds=(Batch("IPv4", SERVICES, batch),))


def occupy(nft: Nft, key: bytes) -> None:
    element = pack_element(key, "goto pick-tcp-4")
    nft.commit(nft_elements.new_elements(NFPROTO_IPV4, TABLE, SERVICES, [element]))


def key(number: int) -> bytes:
    return number.to_bytes(12, "big")


# --- committing


def test_what_was_committed_is_read_back(nft: Nft) -> None:
    observed = furnish(nft)

    tables, generation = OURS.read_tables(nft, FAMILIES)

    assert facts(tables) == facts(observed.tables)
    assert generation == observed.generation


def test_a_refused_element_names_its_owner(nft: Nft) -> None:
    furnish(nft)
    occupy(nft, key(2))

    with pytest.raises(RefusedElements) as caught:
        OURS.commit(nft, adding((key(1), API), (key(2), WEB), (key(3), API)))

    assert caught.value.owners == {WEB}
    assert caught.value.errno == errno.EEXIST


def test_elements_refused_in_several_messages_name_all_their_owners(nft: Nft) -> None:
    furnish(nft)
    occupy(nft, key(2))
    gone = Batch("IPv4", REFUSED, (Element(key(9), None, API),))

    with pytest.raises(RefusedElements) as caught:
        OURS.commit(nft, adding((key(2), WEB))._replace(deletes=(gone,)))

    assert caught.value.owners == {WEB, API}


def test_an_element_of_nobody_names_no_owner(nft: Nft) -> None:
    furnish(nft)
    occupy(nft, key(2))

    with pytest.raises(RefusedElements) as caught:
        OURS.commit(nft, adding((key(1), WEB), (key(2), None)))

    assert caught.value.owners == frozenset()


@pytest.mark.parametrize("number", [1, 2])
def test_a_missing_table_is_nobodys_fault(nft: Nft, number: int) -> None:
    with pytest.raises(Refused) as caught:
        OURS.commit(nft, adding(*[(key(n), WEB) for n in range(number)]))

    assert caught.value.errno == errno.ENOENT


def test_a_refusal_that_is_not_about_elements_is_nobodys_fault(nft: Nft) -> None:
    furnish(nft)
    in_use = Transaction(gone_chains=(("IPv4", "refuse"),))

    with pytest.raises(Refused) as caught:
        OURS.commit(nft, in_use)

    assert caught.value.errno == errno.EBUSY


@pytest.mark.parametrize(
    ("refusal", "owners"),
    [
        pytest.param(Refusal(0, errno.ENFILE, "", None), frozenset(), id="of one of several"),
        pytest.param(Refusal(1, errno.ENFILE, "", None), {WEB}, id="of the only one"),
    ],
)
def test_a_refusal_that_does_not_say_where_is_of_the_whole_message(
    nft: Nft, refusal: Refusal, owners: set[PortKey]
) -> None:
    class Unspecific(Nft):
        """What older kernels say."""

        def commit(self, messages: Sequence[Request]) -> None:
            raise Refused("a transaction", (refusal,))

    two = Batch("IPv4", SERVICES, (Element(key(1), "drop", WEB), Element(key(2), "drop", API)))
    one = Batch("IPv4", REFUSED, (Element(key(1), None, WEB),))

    with Unspecific() as unspecific, pytest.raises(RefusedElements) as caught:
        OURS.commit(unspecific, Transaction(adds=(two, one)))

    assert caught.value.owners == owners


def test_a_refusal_of_the_transaction_itself_is_nobodys_fault(nft: Nft) -> None:
    class Forbidden(Nft):
        def commit(self, messages: Sequence[Request]) -> None:
            raise Refused("a transaction", (Refusal(None, errno.EPERM, ""),))

    with Forbidden() as forbidden, pytest.raises(Refused, match="not permitted"):
        OURS.commit(forbidden, adding((key(1), WEB)))


# --- reading


def test_where_there_is_no_table_nothing_is_read(nft: Nft) -> None:
    tables, _ = OURS.read_tables(nft, FAMILIES)

    assert facts(tables) == {family: vars(TableFacts()) for family in FAMILIES}


def test_tables_of_others_are_not_read(nft: Nft) -> None:
    observed = furnish(nft)
    nft.commit(
        [
            nft_messages.new_table(NFPROTO_IPV4, "other"),
            nft_messages.new_chain(NFPROTO_IPV4, "other", "stranger"),
        ]
    )

    tables, _ = OURS.read_tables(nft, FAMILIES)

    assert facts(tables) == facts(observed.tables)


def test_a_dormant_table_is_seen_to_be_so(nft: Nft) -> None:
    furnish(nft)
    nft.commit([nft_messages.new_table(NFPROTO_IPV4, TABLE, is_dormant=True)])

    tables, _ = OURS.read_tables(nft, FAMILIES)

    assert tables["IPv4"].is_dormant
    assert not tables["IPv6"].is_dormant


class Restless(Nft):
    """Each time the sets of a table are listed, somebody has just added another one, `times` times."""

    times = 0

    def list_sets(self, family: int, table: str) -> list[nft_messages.Set]:
        if Restless.times:
            Restless.times -= 1
            new = nft_messages.new_set(
                family, table, f"set{Restless.times}", key_type=7, key_length=4
            )
            self.commit([new])
        return super().list_sets(family, table)


def test_reading_starts_again_when_somebody_changes_something_meanwhile(nft: Nft) -> None:
    furnish(nft)
    Restless.times = 3

    with Restless() as restless:
        tables, generation = OURS.read_tables(restless, FAMILIES)

    assert Restless.times == 0
    assert generation == nft.generation()
    assert {"set0", "set1", "set2"} <= {n for table in tables.values() for n in table.sets}


def test_what_changes_all_the_time_is_read_across_the_changes_and_compared_later(nft: Nft) -> None:
    furnish(nft)
    Restless.times = 1000

    with Restless() as restless:
        tables, generation = OURS.read_tables(restless, FAMILIES)

    assert tables["IPv4"].is_present
    assert generation != nft.generation()  # so that the next look leads to a comparison


def test_single_elements_are_read_as_they_are_believed(nft: Nft) -> None:
    observed = furnish(nft)
    (services_key,) = observed.tables["IPv4"].elements[SERVICES]

    found = OURS.read_elements(nft, "IPv4", SERVICES, [services_key, key(1)])

    assert found == {services_key: "goto pick-tcp-4"}


# --- cleaning up


def test_our_tables_are_deleted_and_counted_and_nobody_elses(nft: Nft) -> None:
    furnish(nft)
    nft.commit([nft_messages.new_table(NFPROTO_IPV4, "other")])

    assert OURS.delete_tables(nft) == 2
    assert OURS.delete_tables(nft) == 0
    assert [table.name for table in nft.list_tables(NFPROTO_IPV4)] == ["other"]


def test_what_an_interrupted_probe_left_goes_too(nft: Nft) -> None:
    nft.commit([nft_messages.new_table(NFPROTO_IPV4, PROBE_TABLE, is_dormant=True)])

    assert OURS.delete_tables(nft) == 1
    assert nft.list_tables(NFPROTO_IPV4) == []
