"""Messages to ipset. That the kernel understands them is tested in e2e/test_kernel_ipset.py."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.kernel import ipset_messages
from backends.kernel.ipset import Ipset
from backends.kernel.ipset_messages import Command
from backends.kernel.ipset_objects import IpSet, Member, SetKind, SetState
from proxy.model import IPV4, IPV6
from proxy.netlink import codec
from proxy.netlink.codec import Malformed, Request
from tests.fakes.ipset import IpsetKernel
from tests.ipset_strategies import members, sets

FRONTENDS = IpSet("frontends", SetKind.ADDRESS_PORT, IPV4)
# as `ipset` 7.17 sends them, but for the line number it counts
ADD_FROM_THE_PROGRAM = (
    "02000000 05000100 06000000 06000200 61000000 34000780"
    "0c000180 08000140 0a000002 05000700 06000000 06000440 00510000"
    "0c001480 08000140 0a010000 05001500 10000000"
)
CREATE_FROM_THE_PROGRAM = (
    "02000000 05000100 06000000 06000200 64000000 11000300 686173683a69702c706f72740000 0000"
    "05000400 01000000 05000500 02000000"
)


def answer(*attributes: bytes) -> bytes:
    return b"\x02\0\0\0" + b"".join(attributes)


# --- what is sent


def test_a_member_is_packed_as_the_program_packs_it() -> None:
    member = Member("10.0.0.2", 6, 81, "10.1.0.0/16")

    assert ipset_messages.add("a", member) == Request(
        0x609, 0, bytes.fromhex(ADD_FROM_THE_PROGRAM)
    )


def test_a_set_is_packed_as_the_program_packs_it_and_says_how_many_fit() -> None:
    made = ipset_messages.create(IpSet("d", SetKind.ADDRESS_PORT, IPV4, max_members=5))

    settings = codec.nested(7, codec.attr(19 | 0x4000, struct.pack(">I", 5)))
    assert made == Request(0x602, 0, bytes.fromhex(CREATE_FROM_THE_PROGRAM) + settings)


def test_a_time_goes_with_the_member_in_network_byte_order() -> None:
    plain = ipset_messages.add("a", Member("10.0.0.1")).payload
    timed = ipset_messages.add("a", Member("10.0.0.1"), timeout_s=10800).payload

    data = codec.parse_attrs(codec.parse_attrs(timed, 4)[7])
    assert codec.read_be32(data[6]) == 10800
    assert len(timed) == len(plain) + 8


def test_an_addition_without_and_one_with_no_time_at_all_differ() -> None:
    member = Member("10.0.0.1")
    assert ipset_messages.add("a", member) != ipset_messages.add("a", member, timeout_s=0)


@pytest.mark.parametrize("name", ["", "x" * 32, "ü" * 16])
def test_no_message_is_about_a_set_without_a_name_of_its_own(name: str) -> None:
    # without a name the kernel would destroy or flush every set there is
    for build in (ipset_messages.destroy, ipset_messages.flush, ipset_messages.list_members):
        with pytest.raises(ValueError, match="name of a set"):
            build(name)
    for pair in ((name, "a"), ("a", name)):
        with pytest.raises(ValueError, match="name of a set"):
            ipset_messages.swap(*pair)


@pytest.mark.parametrize("text", ["", "10.0.0", "10.0.0.1/", "10.0.0.1/8", "10.0.0.0/33", "name"])
def test_what_is_no_address_or_range_in_canonical_form_is_not_packed(text: str) -> None:
    with pytest.raises(ValueError, match="is no"):
        ipset_messages.add("a", Member("10.0.0.1", 6, 80, text or "-"))


@pytest.mark.parametrize(
    "wrong",
    [
        IpSet("a", SetKind.PORT, IPV4),
        IpSet("a", SetKind.ADDRESS, None),
    ],
)
def test_a_set_of_addresses_has_a_family_and_one_of_ports_has_none(wrong: IpSet) -> None:
    with pytest.raises(ValueError, match="family"):
        ipset_messages.create(wrong)


def test_kinds_that_are_not_made_here_are_not_packed() -> None:
    with pytest.raises(ValueError, match="list:set"):
        ipset_messages.create(IpSet("a", "list:set", IPV4))


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (ipset_messages.create(FRONTENDS), "create set frontends (hash:ip,port)"),
        (ipset_messages.destroy("a"), "destroy set a"),
        (ipset_messages.flush("a"), "flush set a"),
        (ipset_messages.swap("a", "b"), "swap sets a and b"),
        (ipset_messages.add("a", Member("10.0.0.1", 6, 80)), "add 10.0.0.1,tcp:80 to set a"),
        (ipset_messages.delete("a", Member(port=80)), "delete 80 from set a"),
        (ipset_messages.test("a", Member(port=80)), "look for 80 in set a"),
        (ipset_messages.list_members("a"), "list set a"),
        (ipset_messages.list_sets(), "list sets"),
    ],
)
def test_a_request_is_described_in_words(request_: Request, words: str) -> None:
    assert ipset_messages.describe(request_) == words


# --- what is read


@given(members())
def test_a_member_comes_back_as_it_was_packed(member: Member) -> None:
    data = codec.parse_attrs(ipset_messages.add("a", member).payload, 4)[7]
    listed = codec.nested(8, codec.nested(7, bytes(data)))

    assert ipset_messages.parse_members(answer(listed)) == [member]


@given(sets(), st.integers(0, 2**32 - 1))
def test_a_set_comes_back_as_it_was_made(made: IpSet, references: int) -> None:
    kernel = IpsetKernel()
    kernel.references[made.name] = references
    with kernel.entered(), Ipset() as ipset:
        assert ipset.carry_out([ipset_messages.create(made)]) == []
        (found,) = ipset.list_sets()

    expected = made if made.kind != SetKind.PORT else made._replace(max_members=65536)
    assert found == SetState(expected, members=0, references=references)


def test_a_mark_that_sets_some_bits_only_is_told_from_a_whole_one_and_can_be_sent_back() -> None:
    sent = Member("10.0.0.1", 6, 80, mark=0x7_0000_000F)  # value 7, mask 15
    data = codec.parse_attrs(ipset_messages.add("a", sent).payload, 4)[7]

    assert ipset_messages.parse_members(answer(codec.nested(8, codec.nested(7, bytes(data))))) == [
        sent
    ]
    assert str(sent) == "10.0.0.1,tcp:80 skbmark 0x70000000f"


def test_a_foreign_set_of_any_kind_is_read() -> None:
    counts = [codec.attr(kind | 0x4000, struct.pack(">I", 3)) for kind in (24, 25)]
    payload = answer(
        codec.attr_string(2, "theirs"),
        codec.attr_string(3, "list:set"),
        codec.attr(5, b"\0"),
        codec.nested(7, *counts),
    )

    assert ipset_messages.parse_state(payload) == SetState(IpSet("theirs", "list:set", None), 3, 3)


def test_an_answer_without_members_has_none() -> None:
    assert ipset_messages.parse_members(answer(codec.attr_string(2, "a"))) == []


@pytest.mark.parametrize(
    "payload",
    [
        answer(),
        answer(codec.attr_string(2, "a"), codec.attr_string(3, "hash:ip"), codec.nested(7)),
        answer(
            codec.attr_string(2, "a"),
            codec.attr_string(3, "hash:ip"),
            codec.attr(5, b"\x07"),
            codec.nested(7),
        ),
    ],
)
def test_a_set_that_is_not_told_whole_is_malformed(payload: bytes) -> None:
    with pytest.raises(Malformed):
        ipset_messages.parse_state(payload)


@pytest.mark.parametrize(
    "data",
    [
        codec.nested(1),
        codec.nested(1, codec.attr(1, b"\0\0\0")),
        codec.attr(4, b"\0"),
        codec.nested(1, codec.attr(1, bytes(4))) + codec.attr(3, b"\0\0"),
        codec.attr(7, b""),
    ],
)
def test_a_member_of_wrong_lengths_is_malformed(data: bytes) -> None:
    with pytest.raises(Malformed):
        ipset_messages.parse_members(answer(codec.nested(8, codec.nested(7, data))))


def test_both_families_are_told_by_their_numbers() -> None:
    numbers = {
        family: bytes(codec.parse_attrs(request.payload, 4)[5])
        for family, request in (
            (family, ipset_messages.create(IpSet("a", SetKind.ADDRESS, family)))
            for family in (IPV4, IPV6)
        )
    }
    assert numbers == {IPV4: b"\x02", IPV6: b"\x0a"}


def test_commands_bear_the_number_of_the_subsystem() -> None:
    assert ipset_messages.kind_of(Command.ADD) == 0x609
