"""In which order elements are written."""

from backends.kernel.nft_node import SERVICE_CIDRS
from backends.kernel.nft_table import Data, TableFacts
from backends.kernel.nft_transaction import Batch
from backends.kernel.nft_values import ABSENT, Absent, Values
from backends.nftables.order import Going, Step, in_order
from proxy.model import Family
from tests.unit.backends.nftables.planning import WEB

KEY = b"key"


def ordered(
    believed: dict[str, Data],
    wanted: dict[str, Data | Absent],
    late: tuple[str, ...] = (),
    leaving: tuple[str, ...] = (),
    *,
    is_present: bool = True,
) -> list[list[str]]:
    """What is written to which sets, step by step, and what is left, for one element of each set."""
    facts = TableFacts()
    facts.is_present = is_present
    facts.elements = {name: {KEY: data} for name, data in believed.items()}
    sets: dict[tuple[Family, str], Values] = {
        ("IPv4", name): {KEY: (data, None)} for name, data in wanted.items()
    }
    going = Going(*[{("IPv4", name): {KEY} for name in names} for names in (late, leaving)])
    *steps, left = in_order(sets, {"IPv4": facts}, going)
    assert all(keys == {KEY} for _, _, keys in left)
    words = [_words(step) for step in steps if step]
    return words + ([[f"({name})" for _, name, _ in left]] if left else [])


def _words(step: Step) -> list[str]:
    def names(batches: list[Batch]) -> list[str]:
        return [batch.set for batch in batches]

    return [
        *[f"-{name}" for name in names(step.deletes)],
        *[f"+{name}" for name in names(step.adds)],
    ]


def test_what_is_as_wanted_is_not_written() -> None:
    assert ordered({"services": "a"}, {"services": "a", "externals": ABSENT}) == []


def test_most_things_go_together() -> None:
    wanted: dict[str, Data | Absent] = {"services": "b", "endpoints-tcp": b"x", "refused": ABSENT}

    assert ordered({"services": "a", "refused": None}, wanted) == [
        ["-services", "-refused", "+services", "+endpoints-tcp"]
    ]


def test_a_check_comes_before_the_verdict_changes_and_goes_after() -> None:
    assert ordered({"externals": "a"}, {"externals": "b", "guarded": None}) == [
        ["+guarded"], ["-externals", "+externals"],
    ]  # fmt: skip
    assert ordered({"externals": "b", "guarded": None}, {"externals": "a", "guarded": ABSENT}) == [
        ["-externals", "+externals"], ["-guarded"],
    ]  # fmt: skip


def test_what_checks_the_source_comes_before_the_address_and_goes_after_it() -> None:
    new: dict[str, Data | Absent] = {"external-ips": None, "externals": "a", "guarded": None}

    assert ordered({}, new) == [["+guarded"], ["+external-ips", "+externals"]]
    gone: dict[str, Data | Absent] = dict.fromkeys(new, ABSENT)
    believed: dict[str, Data] = {"external-ips": None, "externals": "a", "guarded": None}
    assert ordered(believed, gone) == [["-external-ips", "-externals"], ["-guarded"]]


def test_a_check_comes_before_the_endpoints_of_whoever_takes_the_address_over() -> None:
    believed: dict[str, Data] = {"externals": "a", "endpoints-tcp": b"x"}

    assert ordered(believed, {"externals": "a", "endpoints-tcp": b"y", "guarded": None}) == [
        ["+guarded"], ["-endpoints-tcp", "+endpoints-tcp"],
    ]  # fmt: skip


def test_a_table_that_is_made_anew_serves_everybody_from_the_start() -> None:
    new: dict[str, Data | Absent] = {"guarded": None, "external-ips": None, "externals": "a"}

    assert ordered({}, new, is_present=False) == [["+guarded", "+external-ips", "+externals"]]


def test_a_check_alone_needs_no_second_step() -> None:
    assert ordered({"guarded": "a"}, {"guarded": "b"}) == [["-guarded", "+guarded"]]


def test_slots_that_a_verdict_still_leads_to_go_after_it() -> None:
    wanted: dict[str, Data | Absent] = {"services": "b", "endpoints-tcp": ABSENT}
    believed: dict[str, Data] = {"services": "a", "endpoints-tcp": b"x"}

    assert ordered(believed, wanted, late=("endpoints-tcp",)) == [
        ["-services", "+services"], ["-endpoints-tcp"],
    ]  # fmt: skip
    assert len(ordered(believed, wanted)) == 1


def test_what_is_left_for_packets_on_their_way_is_not_written() -> None:
    wanted: dict[str, Data | Absent] = {"services": "b", "endpoints-tcp": ABSENT}
    believed: dict[str, Data] = {"services": "a", "endpoints-tcp": b"x"}

    assert ordered(believed, wanted, leaving=("endpoints-tcp",)) == [
        ["-services", "+services"], ["(endpoints-tcp)"],
    ]  # fmt: skip


def test_what_is_changed_does_not_leave() -> None:
    changed = ["-endpoints-tcp", "+endpoints-tcp"]

    for late, leaving in ((("endpoints-tcp",), ()), ((), ("endpoints-tcp",))):
        assert ordered({"endpoints-tcp": b"x"}, {"endpoints-tcp": b"y"}, late, leaving) == [
            changed
        ]


def test_ranges_are_written_as_a_whole() -> None:
    facts = TableFacts()
    facts.elements = {SERVICE_CIDRS: {b"a\0": None, b"d\1": None, b"e\0": None}}
    wanted: Values = {b"a\0": (ABSENT, None), b"b\0": (None, WEB), b"c\1": (None, WEB)}

    first, *others, left = in_order(
        {("IPv4", SERVICE_CIDRS): wanted}, {"IPv4": facts}, Going({}, {})
    )

    (deleted,), (added,) = first.deletes, first.adds
    assert [e.key for e in deleted.elements] == [b"a\0", b"d\1", b"e\0"]
    assert [(e.key, e.owner) for e in added.elements] == [
        (b"d\1", None), (b"e\0", None), (b"b\0", WEB), (b"c\1", WEB),
    ]  # fmt: skip
    assert not any(others)
    assert not left
    unchanged: Values = dict.fromkeys(facts.elements[SERVICE_CIDRS], (None, WEB))
    assert not any(in_order({("IPv4", SERVICE_CIDRS): unchanged}, {"IPv4": facts}, Going({}, {})))
