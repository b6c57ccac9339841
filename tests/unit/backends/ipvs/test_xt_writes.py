"""Transactions as messages to ipset: in which order, and how many members there are after them."""

from collections.abc import Sequence

from backends.ipvs.layout import fixed_sets
from backends.ipvs.model import (
    ALLOWED,
    BOUND,
    EXTERNALS,
    GUARDED,
    NODEPORTS,
    REFUSED,
    SERVICES,
    SHORTCUTS,
)
from backends.ipvs.xt_members import ip_set
from backends.ipvs.xt_writes import Message, additions, counted, removals
from backends.kernel import ipset_messages
from backends.kernel.ipset_objects import Member
from backends.kernel.nft_node import SERVICE_CIDRS
from backends.kernel.nft_phrases import word
from backends.kernel.nft_table import Data
from backends.kernel.nft_transaction import Batch, Element, Transaction
from proxy.model import FAMILIES
from tests.model_builders import make_key

HTTP = bytes([10, 0, 0, 1, 6, 0, 0, 0, 0, 80, 0, 0])
KEY = make_key("default/web")
COUNTS = {ip_set(f, s.name).name: (5, ip_set(f, s.name)) for f in FAMILIES for s in fixed_sets(f)}


def batch(name: str, *keys: bytes, data: Data = None) -> Batch:
    return Batch("IPv4", name, tuple([Element(key, data, KEY) for key in keys]))


def sets_of(messages: list[Message]) -> list[str]:
    """The sets that messages are about, in order."""
    words = [ipset_messages.describe(each.request).split() for each in messages]
    return list(dict.fromkeys([each[-1].removeprefix("slice-ipvs4-") for each in words]))


Place = tuple[str, Member]


def nobody(_: str) -> list[Member]:
    raise AssertionError("nothing is listed")


def all_there(places: Sequence[Place]) -> list[bool]:
    return [True] * len(places)


def test_what_a_packet_is_asked_about_next_is_there_before_and_goes_after() -> None:
    allowed = bytes([192, 0, 2, 0]) + HTTP + bytes([192, 0, 2, 255]) + HTTP
    batches = (
        batch(EXTERNALS, HTTP, data=word(1)),
        batch(SHORTCUTS, HTTP, data=word(3)),
        batch(GUARDED, HTTP),
        batch(ALLOWED, allowed),
        batch(BOUND, HTTP[:4]),
    )

    added = additions(Transaction(adds=batches))
    removed = removals(Transaction(deletes=batches), nobody, all_there)

    assert sets_of(added) == [BOUND, ALLOWED, GUARDED, SHORTCUTS, EXTERNALS]
    assert sets_of(removed) == [EXTERNALS, SHORTCUTS, GUARDED, ALLOWED, BOUND]
    assert {each.owner for each in (*added, *removed)} == {KEY}


def test_what_is_removed_and_added_stays() -> None:
    step = Transaction(
        deletes=(batch(EXTERNALS, HTTP, data=word(1)),),
        adds=(batch(EXTERNALS, HTTP, data=word(2)),),
    )

    assert removals(step, nobody, all_there) == []
    assert [ipset_messages.describe(each.request) for each in additions(step)] == [
        "add 10.0.0.1,tcp:80 skbmark 0x2 to set slice-ipvs4-externals"
    ]


def ranges(first: int, last: int) -> bytes:
    return bytes([192, 0, 2, first]) + HTTP + bytes([192, 0, 2, last]) + HTTP


def test_ranges_that_are_there_as_they_were_made_are_removed_without_listing_all_of_them() -> None:
    step = Transaction(deletes=(batch(ALLOWED, ranges(0, 63), ranges(128, 130)),))
    asked: list[Place] = []

    def has(places: Sequence[Place]) -> list[bool]:
        asked.extend(places)
        return [True] * len(places)

    found = removals(step, nobody, has)

    words = [ipset_messages.describe(each.request) for each in found]
    prefixes = ["192.0.2.0/26", "192.0.2.128/31", "192.0.2.130/32"]
    assert [word.split()[1].split(",")[-1] for word in words] == prefixes
    assert [(name, member.other) for name, member in asked] == [
        ("slice-ipvs4-allowed", prefix) for prefix in prefixes
    ]
    assert {each.owner for each in found} == {KEY}


def test_ranges_that_somebody_has_split_are_found_among_all() -> None:
    step = Transaction(deletes=(batch(ALLOWED, ranges(0, 63), ranges(128, 191)),))
    halves = [Member("10.0.0.1", 6, 80, f"192.0.2.{each}/27") for each in (0, 32)]
    others = [
        Member("10.0.0.1", 6, 80, "192.0.2.64/26"),
        Member("10.0.0.2", 6, 80, "192.0.2.0/26"),
    ]
    whole = Member("10.0.0.1", 6, 80, "192.0.2.128/26")
    there = [*halves, *others, whole]

    found = removals(step, lambda _: there, lambda places: [m in there for _, m in places])

    assert [each.request for each in found] == [
        ipset_messages.delete("slice-ipvs4-allowed", member) for member in (*halves, whole)
    ]
    assert {each.owner for each in found} == {KEY}


def test_of_a_family_that_is_made_anew_all_goes_that_is_not_to_be_there() -> None:
    step = Transaction(rebuild=("IPv4",), adds=(batch(BOUND, HTTP[:4]),))
    there = [Member("10.0.0.1"), Member("10.9.9.9")]

    found = removals(step, lambda name: there if name.endswith("4-bound") else [], all_there)

    assert [ipset_messages.describe(each.request) for each in found] == [
        "delete 10.9.9.9 from set slice-ipvs4-bound"
    ]


def test_members_are_counted_as_they_come_and_go() -> None:
    step = Transaction(
        deletes=(batch(REFUSED, HTTP), batch(EXTERNALS, HTTP, data=word(1))),
        adds=(
            batch(SERVICES, HTTP),
            batch(EXTERNALS, HTTP, data=word(2)),
            batch(NODEPORTS, HTTP[4:], data=word(1)),
        ),
    )

    after = counted(step, COUNTS)

    assert after is not None
    changed = {n.removeprefix("slice-ipvs4-"): c for n, (c, _) in after.items() if c != 5}
    assert changed == {REFUSED: 4, SERVICES: 6, NODEPORTS: 7}


def test_ranges_of_sources_are_counted_by_their_members_and_what_stays_once() -> None:
    before = counted(Transaction(adds=(batch(ALLOWED, ranges(0, 95)),)), COUNTS)
    assert before is not None
    assert before["slice-ipvs4-allowed"][0] == 5 + 2
    # the first 64 are among both
    step = Transaction(
        deletes=(batch(ALLOWED, ranges(0, 95)),), adds=(batch(ALLOWED, ranges(0, 63)),)
    )

    after = counted(step, before)

    assert after is not None
    assert after["slice-ipvs4-allowed"][0] == 5 + 1
    assert len(removals(step, nobody, all_there)) == 1


def test_of_service_cidrs_and_of_sets_that_are_not_there_nobody_knows_how_many_there_will_be() -> (
    None
):
    services = Transaction(adds=(batch(SERVICES, HTTP),))

    assert counted(services, {}) is None
    assert counted(services._replace(rebuild=("IPv4",)), COUNTS) is None
    assert counted(Transaction(adds=(batch(SERVICE_CIDRS, HTTP[:4] + b"\0"),)), COUNTS) is None
