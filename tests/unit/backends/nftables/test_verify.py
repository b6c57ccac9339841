"""What somebody else changed is found, and belief corrected. That it is then repaired: tests/contract."""

import asyncio
from collections.abc import Callable, Iterator, Sequence

import pytest

from backends.kernel import nft_elements, nft_messages
from backends.kernel.nft import Nft
from backends.kernel.nft_numbers import NFPROTO_IPV4
from backends.kernel.nft_table import NUMBERS, Data, TableFacts
from backends.kernel.nft_transaction import pack_element
from backends.nftables import verify
from backends.nftables.belief import Observed
from backends.nftables.kernel import OURS
from backends.nftables.layout import Layout, NftSettings
from backends.nftables.model import CLUSTER_IPS, REFUSED, SERVICES, TABLE
from backends.nftables.plan import plan
from proxy.backend import Drift
from proxy.desired import Frontend
from proxy.model import FAMILIES, Family, PortKey
from proxy.netlink.codec import Request
from proxy.netlink.socket import DumpInterrupted
from tests.desired_strategies import desired_state, make_desired, whole
from tests.model_builders import make_key

LAYOUT = Layout(NftSettings(families=FAMILIES))
WEB, API = make_key("default/web"), make_key("default/api")
SLOTS = "endpoints-tcp"
PREFIX = bytes([10, 96, 0, 10])


@pytest.fixture
def observed(nft: Nft) -> Observed:
    """The belief of a process that has programmed two services."""
    desired = desired_state(
        make_desired("default/web", "10.1.0.1:80", "10.1.0.2:80"),
        make_desired("default/api", cluster_ip="10.96.0.11"),
    )
    tables = {family: TableFacts() for family in FAMILIES}
    observed = Observed(tables, nft.generation())
    planned = plan(whole(desired), observed, list(desired), LAYOUT)
    for transaction in planned.transactions:
        OURS.commit(nft, transaction)
        observed.fold(transaction)
    observed.occupy(planned)
    return observed


def verified(nft: Nft, observed: Observed, background: Nft | None = None) -> list[Drift]:
    return asyncio.run(verify.verify(nft, background or nft, asyncio.Lock(), observed))


def only_key(observed: Observed, set_name: str, start: bytes = PREFIX) -> bytes:
    keys = observed.tables["IPv4"].elements[set_name]
    return min(key for key in keys if key.startswith(start))


def delete(nft: Nft, set_name: str, *keys: bytes) -> None:
    packed = [nft_elements.pack_key_element(key) for key in keys]
    nft.commit(nft_elements.del_elements(NFPROTO_IPV4, TABLE, set_name, packed))


def add(nft: Nft, set_name: str, key: bytes, data: Data = None) -> None:
    nft.commit(nft_elements.new_elements(NFPROTO_IPV4, TABLE, set_name, [pack_element(key, data)]))


def test_nothing_is_reported_where_nothing_was_changed(nft: Nft, observed: Observed) -> None:
    assert verified(nft, observed) == []


@pytest.mark.parametrize("set_name", [SERVICES, SLOTS, CLUSTER_IPS])
def test_a_missing_element_is_its_service_ports(
    nft: Nft, observed: Observed, set_name: str
) -> None:
    key = only_key(observed, set_name)
    delete(nft, set_name, key)

    (drift,) = verified(nft, observed)

    assert drift.key == WEB
    assert drift.what == f"IPv4: missing element {key.hex()} of {set_name}"
    assert key not in observed.tables["IPv4"].elements[set_name]


def test_a_missing_refusal_is_its_service_ports(nft: Nft, observed: Observed) -> None:
    delete(nft, REFUSED, only_key(observed, REFUSED, b""))

    (drift,) = verified(nft, observed)

    assert drift.key == API


def test_a_changed_element_is_its_service_ports(nft: Nft, observed: Observed) -> None:
    key = only_key(observed, SLOTS)
    delete(nft, SLOTS, key)
    add(nft, SLOTS, key, bytes(8))

    (drift,) = verified(nft, observed)

    assert (drift.key, "changed" in drift.what) == (WEB, True)
    assert observed.tables["IPv4"].elements[SLOTS][key] == bytes(8)


def test_an_element_beyond_our_slots_is_nobodys(nft: Nft, observed: Observed) -> None:
    key = only_key(observed, SLOTS)[:-4] + bytes([9, 0, 0, 0])
    add(nft, SLOTS, key, bytes(8))

    (drift,) = verified(nft, observed)

    assert (drift.key, "foreign" in drift.what) == (None, True)


@pytest.mark.parametrize(
    ("vip", "ranges"),
    [("203.0.113.1", ("192.0.2.0/24", "10.0.0.0/8")), ("2001:db8::1", ("fd00::/16",))],
)
def test_a_range_is_missed_and_a_foreign_one_goes_by_the_name_of_whom_it_lets_in_to(
    nft: Nft, vip: str, ranges: tuple[str, ...]
) -> None:
    family: Family = "IPv6" if ":" in vip else "IPv4"
    port = make_desired(
        "default/web",
        cluster_ip="fd00:10:96::1" if family == "IPv6" else "10.96.0.10",
        outer=(Frontend("LoadBalancer", vip, 80),),
        source_ranges=ranges,
    )
    desired = whole(desired_state(port))
    observed = Observed({each: TableFacts() for each in FAMILIES}, nft.generation())

    def carry_out(keys: Sequence[PortKey]) -> None:
        planned = plan(desired, observed, keys, LAYOUT)
        for transaction in planned.transactions:
            OURS.commit(nft, transaction)
            observed.fold(transaction)
        observed.occupy(planned)

    carry_out([port.key])
    name = f"ranges-{ranges[0].partition('/')[2]}"
    before = dict(observed.tables[family].elements[name])
    (key,) = before
    strange = key[:-1] + b"\xff"
    number = NUMBERS[family]
    for verb, element in (
        (nft_elements.del_elements, key),
        (nft_elements.new_elements, strange),
    ):
        nft.commit(verb(number, TABLE, name, [nft_elements.pack_key_element(element)]))

    drifts = verified(nft, observed)

    assert [drift.key for drift in drifts] == [port.key] * 2
    assert {drift.what for drift in drifts} == {
        f"{family}: missing element {key.hex()} of {name}",
        f"{family}: foreign element {strange.hex()} of {name}",
    }
    carry_out([port.key])
    carry_out([])
    assert dict.fromkeys(nft.find_elements(number, TABLE, name, [key, strange])) == before
    assert verified(nft, observed) == []


@pytest.mark.parametrize(
    "request_",
    [
        nft_messages.del_table(NFPROTO_IPV4, TABLE),
        nft_messages.flush_chain(NFPROTO_IPV4, TABLE, SERVICES),
        nft_messages.new_chain(NFPROTO_IPV4, TABLE, "stranger"),
        nft_messages.new_set(NFPROTO_IPV4, TABLE, "crowd", key_type=7, key_length=4),
        nft_messages.new_table(NFPROTO_IPV4, TABLE, is_dormant=True),
    ],
    ids=["table", "rules", "chain", "set", "dormant"],
)
def test_a_change_to_what_all_share_is_nobodys(
    nft: Nft, observed: Observed, request_: Request
) -> None:
    nft.commit([request_])

    drifts = verified(nft, observed)

    assert [drift.key for drift in drifts] == [None]
    assert drifts[0].what.startswith("IPv4")


def test_many_changes_are_not_read_one_by_one(
    nft: Nft, observed: Observed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify, "SINGLE_READS", 1)
    for number in range(2):
        add(nft, CLUSTER_IPS, bytes([1, 1, 1, number]))

    assert verified(nft, observed) == [Drift(key=None, what="2 elements")]


# --- changes while we look


class Interrupted(Nft):
    """Something happens once: just before a given set is listed, or after that and before the list is looked at.

    `look` is the time at which this happens, when everything is looked at several times.
    """

    def __init__(
        self, set_name: str, event: Callable[[], None], *, is_after: bool = False, look: int = 1
    ) -> None:
        super().__init__()
        self._set_name = set_name
        self._event = event
        self._is_after = is_after
        self._looks_left = look

    def list_elements(
        self, family: int, table: str, name: str, *, is_strict: bool = True
    ) -> Iterator[list[tuple[bytes, nft_elements.Data]]]:
        listed = super().list_elements(family, table, name, is_strict=is_strict)
        if (family, name) == (NFPROTO_IPV4, self._set_name):
            self._looks_left -= 1
            if not self._looks_left:
                listed = iter(list(listed)) if self._is_after else listed
                self._event()
        return listed


def apply(nft: Nft, observed: Observed, *endpoints: str) -> None:
    """Change a service as its process does."""
    planned = plan(
        whole(desired_state(make_desired("default/web", *endpoints))), observed, [WEB], LAYOUT
    )
    for transaction in planned.transactions:
        OURS.commit(nft, transaction)
        observed.fold(transaction)
    observed.occupy(planned)


def test_what_we_change_ourselves_meanwhile_is_no_drift(nft: Nft, observed: Observed) -> None:
    def change() -> None:
        apply(nft, observed, "10.1.0.7:80", "10.1.0.8:80", "10.1.0.9:80")

    with Interrupted(SLOTS, change) as background:
        assert verified(nft, observed, background) == []
    assert observed.generation == nft.generation()


@pytest.mark.parametrize("single_reads", [1000, 1], ids=["one by one", "by a second look"])
def test_what_was_listed_before_we_changed_it_is_looked_at_again(
    nft: Nft, observed: Observed, monkeypatch: pytest.MonkeyPatch, single_reads: int
) -> None:
    monkeypatch.setattr(verify, "SINGLE_READS", single_reads)

    def change() -> None:
        apply(nft, observed, "10.1.0.7:80", "10.1.0.8:80", "10.1.0.9:80")

    with Interrupted(SLOTS, change, is_after=True) as background:
        assert verified(nft, observed, background) == []
    assert observed.generation == nft.generation()


@pytest.mark.parametrize("look", [1, 2])
def test_only_what_differs_at_both_looks_counts(
    nft: Nft, observed: Observed, monkeypatch: pytest.MonkeyPatch, look: int
) -> None:
    monkeypatch.setattr(verify, "SINGLE_READS", 1)
    for number in range(2):
        add(nft, CLUSTER_IPS, bytes([1, 1, 1, number]))

    def change() -> None:
        apply(nft, observed, "10.1.0.7:80", "10.1.0.8:80", "10.1.0.9:80")

    with Interrupted(SLOTS, change, is_after=True, look=look) as background:
        assert verified(nft, observed, background) == [Drift(key=None, what="2 elements")]


def test_what_somebody_changes_meanwhile_is_left_to_the_next_look(
    nft: Nft, observed: Observed
) -> None:
    key = only_key(observed, SERVICES)

    with Interrupted(CLUSTER_IPS, lambda: delete(nft, SERVICES, key)) as background:
        assert verified(nft, observed, background) == []

    assert observed.generation != nft.generation()
    assert [drift.key for drift in verified(nft, observed)] == [WEB]
    assert observed.generation == nft.generation()


def test_a_structure_that_changes_all_the_time_is_not_judged(nft: Nft, observed: Observed) -> None:
    class Restless(Nft):
        def list_sets(self, family: int, table: str) -> list[nft_messages.Set]:
            raise DumpInterrupted("of course")

    delete(nft, SERVICES, only_key(observed, SERVICES))
    with Restless() as restless:
        verified(nft, observed, restless)

    # so that the next look at the generation leads to another comparison
    assert observed.generation != nft.generation()
