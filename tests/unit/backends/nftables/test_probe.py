import errno
from collections.abc import Sequence

import pytest

from backends.kernel import nft_messages
from backends.kernel.nft import Nft, Refusal, Refused
from backends.kernel.nft_expressions import parse_expressions
from backends.kernel.nft_messages import Table
from backends.kernel.nft_numbers import MessageKind
from backends.kernel.nft_table import NUMBERS, TableFacts
from backends.nftables.belief import Observed
from backends.nftables.kernel import OURS
from backends.nftables.layout import Layout, NftSettings
from backends.nftables.model import PROBE_TABLE, TABLE
from backends.nftables.plan import plan
from backends.nftables.probe import probe
from proxy.errors import KernelError, Unsupported
from proxy.model import FAMILIES
from proxy.netlink.codec import Request
from tests.desired_strategies import desired_state, make_desired, whole

LAYOUT = Layout(NftSettings(families=FAMILIES, cluster_cidrs=("10.244.0.0/16",)))


class Limited(Nft):
    """A kernel that lacks an expression: it refuses every rule that has it."""

    def __init__(self, lacking: str) -> None:
        super().__init__()
        self._lacking = lacking.encode() + b"\0"
        self.seen: list[Request] = []

    def commit(self, messages: Sequence[Request]) -> None:
        self.seen += messages
        for index, message in enumerate(messages):
            if message.kind == MessageKind.NEWRULE and self._lacking in message.payload:
                raise Refused("a transaction", (Refusal(index, 95, "Operation not supported"),))
        super().commit(messages)


class Forbidden(Nft):
    """A kernel that answers nobody without rights."""

    def find_table(self, family: int, name: str) -> Table | None:
        raise KernelError("nftables query", errno.EPERM, "Operation not permitted")


def nothing_is_left(nft: Nft) -> bool:
    return not any(nft.find_table(number, PROBE_TABLE) for number in NUMBERS.values())


def test_a_kernel_that_can_do_everything_is_accepted_and_left_as_it_was(nft: Nft) -> None:
    probe(nft, LAYOUT)

    assert nothing_is_left(nft)


def test_missing_rights_are_called_by_their_name(nft: Nft) -> None:
    with Forbidden() as door, pytest.raises(Unsupported, match="capability NET_ADMIN"):
        probe(door, LAYOUT)


def test_every_expression_of_our_rules_is_tried_in_both_families(nft: Nft) -> None:
    with Limited("nothing") as door:
        probe(door, LAYOUT)
        rules = [m for m in door.seen if m.kind == MessageKind.NEWRULE]

    for family in FAMILIES:
        number = NUMBERS[family]
        tried = b"".join([rule.payload for rule in rules if rule.payload[0] == number])
        for chain in LAYOUT.skeleton(family):
            for rule in chain.rules:
                assert parse_expressions(rule.expressions)
                assert rule.expressions in tried


@pytest.mark.parametrize("lacking", ["numgen", "masq", "nat", "reject", "ct"])
def test_what_a_kernel_lacks_is_named_and_nothing_is_left_behind(nft: Nft, lacking: str) -> None:
    with Limited(lacking) as limited, pytest.raises(Unsupported, match="not supported") as caught:
        probe(limited, LAYOUT)

    assert caught.value.feature.startswith("IPv4 rule of chain ")
    assert nothing_is_left(nft)


def test_what_an_earlier_process_has_left_proves_enough(nft: Nft) -> None:
    desired = desired_state(
        make_desired("default/web", "10.1.0.1:80"),
        make_desired("default/web", "[fd00::1]:80", cluster_ip="fd00:10:96::1"),
    )
    observed = Observed({family: TableFacts() for family in FAMILIES})
    for transaction in plan(whole(desired), observed, list(desired), LAYOUT).transactions:
        OURS.commit(nft, transaction)
    before = nft.generation()

    probe(nft, LAYOUT)

    assert nft.generation() == before


@pytest.mark.parametrize("lost", ["cluster-ip", "pick-tcp-1"])
def test_less_than_all_rules_prove_nothing(nft: Nft, lost: str) -> None:
    desired = desired_state(make_desired("default/web", "10.1.0.1:80"))
    observed = Observed({family: TableFacts() for family in FAMILIES})
    for transaction in plan(whole(desired), observed, list(desired), LAYOUT).transactions:
        OURS.commit(nft, transaction)
    nft.commit([nft_messages.flush_chain(NUMBERS["IPv4"], TABLE, lost)])

    with Limited("masq") as limited, pytest.raises(Unsupported):
        probe(limited, LAYOUT)


def test_an_attempt_that_was_cut_off_is_cleared_away(nft: Nft) -> None:
    with Limited("masq") as limited:
        limited._lacking = b"nothing"
        probe(limited, LAYOUT)
        begun = limited.seen[: len(limited.seen) // 4]
    nft.commit([request for request in begun if request.kind != MessageKind.DELTABLE])
    assert not nothing_is_left(nft)

    probe(nft, LAYOUT)

    assert nothing_is_left(nft)
