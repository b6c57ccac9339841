"""Which modes are tried, what is said of those that will not do, and how long one is endured that can program nothing."""

import pytest

from proxy import ladder
from proxy.errors import ConfigError, KernelError, ProxyError, Unsupported
from proxy.journal import Round
from proxy.ladder import LEAST_ROUNDS, Endurance, Refusal

ALL = ("nftables", "ipvs", "iptables", "userspace")
NO_SETS = Refusal(mode="nftables", primitive="IPv4 set services", how="Operation not supported")
NO_IPVS = Refusal(mode="ipvs", primitive="IPVS")


@pytest.mark.parametrize(
    ("asked", "fallback", "tried"),
    [
        pytest.param("", "", ALL, id="the best there is"),
        pytest.param("", "userspace", ALL, id="a fallback changes nothing where all are tried"),
        pytest.param("ipvs", "", ("ipvs",), id="what is named stands alone"),
        pytest.param("ipvs", "userspace", ("ipvs", "userspace"), id="unless there is a fallback"),
        pytest.param("userspace", "userspace", ("userspace",), id="which is not tried twice"),
        pytest.param("null", "", ("null",), id="what nobody takes by itself can be named"),
    ],
)
def test_what_is_tried(asked: str, fallback: str, tried: tuple[str, ...]) -> None:
    assert ladder.rungs(asked, fallback, ALL) == tried


@pytest.mark.parametrize(
    ("mode", "left"),
    [
        ("nftables", ("ipvs", "iptables", "userspace")),
        ("iptables", ("userspace",)),
        ("userspace", ()),
        ("unheard-of", ()),
    ],
)
def test_nobody_climbs(mode: str, left: tuple[str, ...]) -> None:
    assert ladder.below(mode, ALL) == left


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (Unsupported("IPv4 set services", "Operation not supported"), str(NO_SETS)),
        (Unsupported("IPVS"), "nftables: IPVS"),
        (
            KernelError("open a netlink socket", 93, "Protocol not supported"),
            "nftables: open a netlink socket: Protocol not supported",
        ),
        (ConfigError("mode: must be"), "nftables: mode: must be"),
    ],
)
def test_a_refusal_says_which_primitive_failed_and_how(error: ProxyError, words: str) -> None:
    assert str(ladder.refusal("nftables", error)) == words


def test_a_fallback_names_every_better_mode_with_its_reason() -> None:
    assert ladder.fallback_words("nftables", ()) == ""
    assert ladder.fallback_words("iptables", (NO_SETS, NO_IPVS)) == (
        "mode iptables instead of nftables, ipvs: "
        "nftables: IPv4 set services: Operation not supported; ipvs: IPVS"
    )


@pytest.mark.parametrize(
    ("asked", "fallback", "words"),
    [
        ("", "", "no mode can run here: ipvs: IPVS"),
        (
            "ipvs",
            "",
            "mode ipvs cannot run here: ipvs: IPVS; leave `mode` empty to have the best that this host supports, "
            "or set `fallback: userspace` in the file of --sliceproxy-config",
        ),
        ("ipvs", "userspace", "neither mode ipvs nor its fallback userspace can run here: ipvs: IPVS"),
        (
            "userspace",
            "userspace",
            "mode userspace cannot run here: ipvs: IPVS; leave `mode` empty to have the best that this host supports",
        ),
    ],
)  # fmt: skip
def test_where_nothing_can_run_the_way_out_is_named(asked: str, fallback: str, words: str) -> None:
    assert ladder.nowhere_words(asked, fallback, (NO_IPVS,)) == words


def test_without_the_right_that_all_modes_need_there_is_no_other_way_out() -> None:
    refusal = Refusal(mode="ipvs", primitive="ipvs", how="needs the capability NET_ADMIN (no)")

    assert ladder.nowhere_words("ipvs", "", (refusal,)) == (
        "mode ipvs cannot run here: ipvs: ipvs: needs the capability NET_ADMIN (no)"
    )


# --- endurance


def ended(at_s: float, trouble: str = "", error: str = "") -> Round:
    return Round(
        started_s=at_s - 0.1,
        ended_s=at_s,
        is_full=True,
        families=(),
        error=error or trouble,
        trouble=trouble,
    )


def over_at(endurance: Endurance, *rounds: Round) -> list[float]:
    """When each of these rounds was one too many."""
    return [each.ended_s for each in rounds if endurance.is_over(each)]


def failing(*times_s: float) -> list[Round]:
    return [ended(at_s, "no answer") for at_s in times_s]


def test_it_is_over_when_nothing_went_well_for_the_whole_time() -> None:
    endurance = Endurance(60.0)

    assert over_at(endurance, *failing(10.0, 30.0, 69.8, 69.9, 70.0)) == [69.9]
    assert endurance.trouble == "no answer"


def test_a_round_that_ends_well_begins_it_anew() -> None:
    rounds = [*failing(0.1, 30.0, 59.0), ended(59.5), *failing(60.1, 61.0, 90.0, 119.0, 120.1)]

    assert over_at(Endurance(60.0), *rounds) == [120.1]


def test_a_few_rounds_are_needed_however_long_they_take() -> None:
    times = [1000.0 * number for number in range(1, LEAST_ROUNDS + 1)]

    assert over_at(Endurance(60.0), *failing(*times)) == [times[-1]]


def test_after_that_counting_begins_anew() -> None:
    rounds = failing(0.1, 30.0, 60.1, 61.1, 100.0, 120.5, 121.1)

    assert over_at(Endurance(60.0), *rounds) == [60.1, 121.1]


def test_a_mistake_of_our_own_neither_counts_nor_is_a_success() -> None:
    mistakes = [ended(float(at_s), error="KeyError") for at_s in range(100)]
    endurance = Endurance(60.0)

    assert over_at(endurance, *mistakes) == []
    rounds = [*failing(0.1, 30.0), ended(40.0, error="KeyError"), *failing(60.1)]
    assert over_at(endurance, *rounds) == [60.1]
