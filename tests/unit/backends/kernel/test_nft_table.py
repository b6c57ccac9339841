"""Chains and sets of a table of ours, in words and as messages."""

import pytest

from backends.kernel import nft_messages
from backends.kernel.nft_messages import BaseChain
from backends.kernel.nft_numbers import Hook, MessageKind, SetFlag
from backends.kernel.nft_phrases import accept, drop
from backends.kernel.nft_table import ChainSpec, SetFacts, declared, pack_chain, pack_set, rule
from proxy.netlink import codec


def test_rules_are_equal_if_their_comments_are() -> None:
    one, same, other = rule([drop()], "why"), rule([drop()], "why"), rule([accept()], "why")

    assert one == same
    assert one.comment != other.comment
    assert one.comment.startswith("why [")


def test_a_chain_is_emptied_before_its_rules_are_written() -> None:
    chain = ChainSpec("c", BaseChain("nat", Hook.OUTPUT, -100), (rule([drop()], "why"),))

    kinds = [request.kind for request in pack_chain("IPv4", chain, "t")]
    assert kinds == [MessageKind.NEWCHAIN, MessageKind.DELRULE, MessageKind.NEWRULE]
    assert chain.facts == (chain.base, (chain.rules[0].comment,))


@pytest.mark.parametrize(
    ("key", "data", "asked", "flags"),
    [
        ("ipv4_addr", None, 0, 0),
        ("ipv4_addr . inet_proto", "mark", 0, SetFlag.MAP),
        ("ipv4_addr", None, SetFlag.INTERVAL, SetFlag.INTERVAL),
        ("ipv4_addr . inet_proto", None, SetFlag.INTERVAL, SetFlag.INTERVAL | SetFlag.CONCAT),
    ],
)
def test_a_set_is_what_the_kernel_says_it_is(
    key: str, data: str | None, asked: int, flags: int
) -> None:
    spec = declared("s", key, data, flags=asked)
    listed = pack_set("IPv4", spec, "t").payload + codec.attr_be64(16, 1)

    found = nft_messages.parse_set(listed)
    facts = SetFacts(
        found.flags, found.key_type, found.key_length, found.data_type, found.data_length
    )
    assert facts == spec.facts
    assert found.flags == flags
    assert bool(found.field_lengths) == (flags == SetFlag.INTERVAL | SetFlag.CONCAT)
