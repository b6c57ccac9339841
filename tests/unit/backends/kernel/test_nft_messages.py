import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from backends.kernel import nft_messages
from backends.kernel.nft_messages import BaseChain, Chain, Rule, Set, Table
from backends.kernel.nft_numbers import NFPROTO_IPV4, NFPROTO_IPV6, Hook, MessageKind, SetFlag
from backends.kernel.nft_userdata import VERDICT_TYPE, declare, set_userdata
from proxy.netlink import codec
from proxy.netlink.codec import Malformed, Request

CREATE = codec.NLM_F_CREATE

names = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20)
comments = st.just("") | names
families = st.sampled_from([NFPROTO_IPV4, NFPROTO_IPV6])
handles = st.integers(1, 2**64 - 1)
u32 = st.integers(0, 2**32 - 1)


def with_handle(request: Request, kind: int, handle: int) -> bytes:
    """The payload as the kernel returns it: with the handle it gave, and the generation stamped on it."""
    stamped = request.payload[:2] + b"\x01\x02" + request.payload[4:]
    return stamped + codec.attr_be64(kind, handle)


# As `nft` 1.0.6 sent them: type, flags, and everything after the netlink header.
@pytest.mark.parametrize(
    ("request_", "kind", "flags", "payload"),
    [
        pytest.param(
            nft_messages.new_table(NFPROTO_IPV4, "t", "sliceproxy 1"),
            MessageKind.NEWTABLE,
            0,
            "02000000 06000100 74000000 08000200 00000000"
            "13000600 000d736c69636570726f7879203100 00",
            id="table with a comment",
        ),
        pytest.param(
            nft_messages.new_chain(NFPROTO_IPV6, "s", "refuse"),
            MessageKind.NEWCHAIN,
            CREATE,
            "0a000000 06000100 73000000 0b000300 72656675736500 00",
            id="chain",
        ),
        pytest.param(
            nft_messages.new_chain(
                NFPROTO_IPV4, "s", "prerouting", BaseChain("nat", Hook.PREROUTING, -100)
            ),
            MessageKind.NEWCHAIN,
            CREATE,
            "02000000 06000100 73000000 0f000300 707265726f7574696e6700 00 08000700 6e617400"
            "08000500 00000001 14000480 08000100 00000000 08000200 ffffff9c",
            id="base chain",
        ),
        pytest.param(
            nft_messages.new_chain(NFPROTO_IPV4, "t", "x", comment="cc"),
            MessageKind.NEWCHAIN,
            CREATE,
            "02000000 06000100 74000000 06000300 78000000 09000c00 0003636300 000000",
            id="chain with a comment",
        ),
        pytest.param(
            nft_messages.new_rule(
                NFPROTO_IPV4,
                "s",
                "x",
                bytes.fromhex(
                    "30000180 0e000100 696d6d65646961746500 0000"
                    "1c000280 08000100 00000000 10000280 0c000280 08000100 00000000"
                ),
                "sp1 abcdef",
            ),
            MessageKind.NEWRULE,
            CREATE | codec.NLM_F_APPEND,
            "02000000 06000100 73000000 06000200 78000000 34000480"
            "30000180 0e000100 696d6d65646961746500 0000"
            "1c000280 08000100 00000000 10000280 0c000280 08000100 00000000"
            "11000700 000b7370312061626364656600 000000",
            id="rule with a comment",
        ),
    ],
)
def test_messages_are_those_of_nft(
    request_: Request, kind: MessageKind, flags: int, payload: str
) -> None:
    assert request_.kind == kind
    # nft asks for a table without CREATE, which means the same to the kernel
    assert request_.flags == (flags or CREATE)
    assert request_.payload == bytes.fromhex(payload)


def drop_set_id(payload: bytes) -> list[tuple[int, bytes]]:
    return [(kind, bytes(view)) for kind, view in codec.iter_attrs(payload, 4) if kind != 10]


# Likewise; only the number `nft` gives each set within a transaction is left out of the comparison.
@pytest.mark.parametrize(
    ("words", "data", "options", "payload"),
    [
        pytest.param(
            "ipv4_addr . inet_proto . inet_service",
            "verdict",
            {},
            "06000100 73000000 06000200 78000000 08000300 00000008 08000400 0000730d"
            "08000500 0000000c 08000600 ffffff00 08000700 00000000 20000d00"
            "000400000000010400000000030800040d0000000100060400000000",
            id="verdict map",
        ),
        pytest.param(
            "ipv4_addr . inet_service . ipv4_addr",
            None,
            {"flags": SetFlag.INTERVAL},
            "06000100 73000000 06000200 78000000 08000300 00000084 08000400 00007347"
            "08000500 0000000c 2c000980 28000280"
            "0c000180 08000100 00000004 0c000180 08000100 00000002 0c000180 08000100 00000004"
            "14000d00 000400000000030800040d0000000100",
            id="intervals in each part of a concatenation",
        ),
        pytest.param(
            "ipv4_addr . ipv4_addr . inet_proto . inet_service",
            "ipv4_addr . inet_service",
            {
                "flags": SetFlag.EVAL | SetFlag.TIMEOUT,
                "size": 65535,
                "timeout_ms": 10_800_000,
            },
            "06000100 73000000 06000200 78000000 08000300 00000038 08000400 001c730d"
            "08000500 00000010 08000600 000001cd 08000700 00000008 0c000980 08000100 0000ffff"
            "0c000b00 0000000000a4cb80 2a000d00"
            "000400000000010400000000030800040d0000000100040800040d0000000100060400000000 0000",
            id="map that rules fill",
        ),
        pytest.param(
            "ipv4_addr",
            None,
            {"flags": SetFlag.INTERVAL},
            "06000100 73000000 06000200 78000000 08000300 00000004 08000400 00000007"
            "08000500 00000004 0a000d00 000402000000 0000",
            id="intervals of single addresses",
        ),
    ],
)
def test_sets_are_those_of_nft(
    words: str, data: str | None, options: dict[str, int], payload: str
) -> None:
    key = declare(words)
    value = declare(data) if data else None
    request = nft_messages.new_set(
        NFPROTO_IPV4,
        "s",
        "x",
        key_type=key.type,
        key_length=key.length,
        data_type=value.type if value else None,
        data_length=value.length if value else 0,
        flags=options.get("flags", 0),
        size=options.get("size", 0),
        timeout_ms=options.get("timeout_ms", 0),
        field_lengths=key.field_lengths,
        userdata=set_userdata(key, value),
    )

    assert request.kind == MessageKind.NEWSET
    assert request.flags == CREATE
    assert drop_set_id(request.payload) == drop_set_id(b"\2\0\0\0" + bytes.fromhex(payload))
    assert 10 in codec.parse_attrs(request.payload, 4), "the kernel insists on a number"


@given(families, names, handles, comments, st.booleans())
def test_a_table_comes_back(
    family: int, name: str, handle: int, comment: str, is_dormant: bool
) -> None:
    request = nft_messages.new_table(family, name, comment, is_dormant=is_dormant)

    found = nft_messages.parse_table(with_handle(request, 4, handle))
    assert found == Table(family, name, handle, int(is_dormant), comment)


bases = st.builds(
    BaseChain,
    st.sampled_from(["nat", "filter"]),
    st.sampled_from(Hook),
    st.integers(-(2**31), 2**31 - 1),
    st.integers(0, 1),
)


@given(families, names, names, handles, st.none() | bases, comments)
def test_a_chain_comes_back(
    family: int, table: str, name: str, handle: int, base: BaseChain | None, comment: str
) -> None:
    request = nft_messages.new_chain(family, table, name, base, comment)

    found = nft_messages.parse_chain(with_handle(request, 2, handle))
    assert found == Chain(family, table, name, handle, base, comment)


@given(families, names, names, handles, comments, st.binary(max_size=30))
def test_a_rule_comes_back(
    family: int, table: str, chain: str, handle: int, comment: str, expressions: bytes
) -> None:
    request = nft_messages.new_rule(family, table, chain, expressions, comment)

    found = nft_messages.parse_rule(with_handle(request, 3, handle))
    assert found == Rule(family, table, chain, handle, comment, expressions)


sets = st.builds(
    Set,
    family=families,
    table=names,
    name=names,
    handle=handles,
    key_type=u32,
    key_length=st.integers(1, 64),
    data_type=st.none(),
    flags=u32.map(lambda flags: flags & ~(SetFlag.MAP | SetFlag.INTERVAL)),
    size=u32,
    timeout_ms=st.integers(0, 2**63),
    userdata=st.binary(max_size=100),
)


def make(wanted: Set) -> Request:
    return nft_messages.new_set(
        wanted.family,
        wanted.table,
        wanted.name,
        key_type=wanted.key_type,
        key_length=wanted.key_length,
        data_type=wanted.data_type,
        data_length=wanted.data_length,
        flags=wanted.flags,
        size=wanted.size,
        timeout_ms=wanted.timeout_ms,
        field_lengths=wanted.field_lengths,
        userdata=wanted.userdata,
    )


@given(sets)
def test_a_set_comes_back(wanted: Set) -> None:
    assert nft_messages.parse_set(with_handle(make(wanted), 16, wanted.handle)) == wanted


@given(sets, st.integers(0, 2**31), st.integers(1, 64))
def test_a_map_comes_back_marked_as_one(wanted: Set, data_type: int, data_length: int) -> None:
    wanted = replace(wanted, data_type=data_type, data_length=data_length)

    found = nft_messages.parse_set(with_handle(make(wanted), 16, wanted.handle))
    assert found == replace(wanted, flags=wanted.flags | SetFlag.MAP)


@given(sets, st.lists(st.integers(1, 16), min_size=1, max_size=4))
def test_field_lengths_are_sent_for_intervals_of_several_fields_only(
    wanted: Set, lengths: list[int]
) -> None:
    plain = replace(wanted, flags=wanted.flags & ~SetFlag.CONCAT, field_lengths=tuple(lengths))
    ranges = replace(plain, flags=plain.flags | SetFlag.INTERVAL)
    concatenated = replace(ranges, flags=ranges.flags | SetFlag.CONCAT)

    found = [nft_messages.parse_set(with_handle(make(s), 16, s.handle)) for s in (plain, ranges)]

    assert found[0] == replace(plain, field_lengths=())
    assert found[1] == (concatenated if len(lengths) > 1 else replace(ranges, field_lengths=()))


def test_the_length_the_kernel_gives_verdicts_is_that_of_our_declaration() -> None:
    listed = b"\2\0\0\0" + b"".join(
        [
            codec.attr_string(1, "t"),
            codec.attr_string(2, "m"),
            codec.attr_be64(16, 1),
            codec.attr_be32(6, VERDICT_TYPE),
            codec.attr_be32(7, 16),
        ]
    )

    assert nft_messages.parse_set(listed).data_length == declare("verdict").length


def test_a_rule_is_removed_by_its_handle_and_a_chain_emptied_without_one() -> None:
    rule = nft_messages.del_rule(NFPROTO_IPV4, "t", "c", 7)
    flush = nft_messages.flush_chain(NFPROTO_IPV4, "t", "c")

    assert (rule.kind, flush.kind) == (MessageKind.DELRULE, MessageKind.DELRULE)
    assert codec.parse_attrs(rule.payload, 4).keys() == {1, 2, 3}
    assert codec.parse_attrs(flush.payload, 4).keys() == {1, 2}


@pytest.mark.parametrize(
    ("request_", "kind", "named"),
    [
        (nft_messages.del_table(2, "t"), MessageKind.DELTABLE, {1: "t"}),
        (nft_messages.del_chain(2, "t", "c"), MessageKind.DELCHAIN, {1: "t", 3: "c"}),
        (nft_messages.del_set(2, "t", "s"), MessageKind.DELSET, {1: "t", 2: "s"}),
        (nft_messages.get_table(2, "t"), MessageKind.GETTABLE, {1: "t"}),
        (nft_messages.get_chain(2, "t", "c"), MessageKind.GETCHAIN, {1: "t", 3: "c"}),
        (nft_messages.get_set(2, "t", "s"), MessageKind.GETSET, {1: "t", 2: "s"}),
        (nft_messages.list_tables(2), MessageKind.GETTABLE, {}),
        (nft_messages.list_chains(2), MessageKind.GETCHAIN, {}),
        (nft_messages.list_sets(2, "t"), MessageKind.GETSET, {1: "t"}),
        (nft_messages.list_rules(2, "t"), MessageKind.GETRULE, {1: "t"}),
        (nft_messages.list_rules(2, "t", "c"), MessageKind.GETRULE, {1: "t", 2: "c"}),
    ],
    ids=lambda value: value.name if isinstance(value, MessageKind) else "",
)
def test_what_is_meant_is_named(
    request_: Request, kind: MessageKind, named: dict[int, str]
) -> None:
    assert request_.kind == kind
    assert request_.payload[:4] == b"\2\0\0\0"
    attrs = codec.parse_attrs(request_.payload, 4)
    assert {number: codec.read_string(view) for number, view in attrs.items()} == named


def test_a_transaction_begins_and_ends_with_the_subsystem_it_is_for() -> None:
    begin, end = nft_messages.batch_begin(), nft_messages.batch_end()

    assert (begin.kind, end.kind) == (0x10, 0x11)
    assert begin.payload == end.payload == bytes.fromhex("0000000a")


def test_the_generation_is_read_from_its_answer_and_its_half_from_every_answer() -> None:
    answer = b"\0\0\x34\x56" + codec.attr_be32(1, 0x123456)

    assert nft_messages.parse_generation(answer) == 0x123456
    assert nft_messages.parse_generation_stamp(answer) == 0x3456


PARSERS = [
    nft_messages.parse_table,
    nft_messages.parse_chain,
    nft_messages.parse_rule,
    nft_messages.parse_set,
    nft_messages.parse_generation,
]


@pytest.mark.parametrize("parse", PARSERS)
def test_an_answer_without_what_it_must_name_is_malformed(parse: object) -> None:
    assert callable(parse)
    for payload in (b"", b"\2\0\0\0", b"\2\0\0\0" + codec.attr_be64(2, 1)):
        with pytest.raises(Malformed):
            parse(payload)


@given(st.sampled_from(PARSERS), st.data())
def test_damaged_answers_give_a_value_or_malformed(parse: object, draws: st.DataObject) -> None:
    assert callable(parse)
    request = nft_messages.new_chain(
        2, "t", "c", BaseChain("nat", Hook.OUTPUT, -100), comment="a comment"
    )
    payload = bytearray(with_handle(request, 2, 5))
    for _ in range(draws.draw(st.integers(1, 4))):
        payload[draws.draw(st.integers(0, len(payload) - 1))] = draws.draw(st.integers(0, 255))
    try:
        found = parse(bytes(payload))
    except Malformed:
        return
    assert isinstance(found, Table | Chain | Rule | Set | int)
