import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.netlink import codec, generic
from proxy.netlink.codec import Malformed


def test_a_family_is_asked_for_by_its_name() -> None:
    kind, flags, payload = generic.get_family("IPVS")

    assert (kind, flags) == (16, 0)  # GENL_ID_CTRL
    # CTRL_CMD_GETFAMILY in version 1, CTRL_ATTR_FAMILY_NAME
    assert payload == bytes.fromhex("03010000 09000200 4950565300 000000")


def test_a_family_is_known_by_its_number() -> None:
    # CTRL_CMD_NEWFAMILY with CTRL_ATTR_FAMILY_NAME, CTRL_ATTR_FAMILY_ID and CTRL_ATTR_VERSION
    answer = bytes.fromhex(
        "01020000 09000200 4950565300 000000 06000100 2300 0000 08000300 01000000"
    )

    assert generic.parse_family(answer) == 0x23


@pytest.mark.parametrize("answer", ["", "010200", "01020000", "01020000 05000100 23 000000"])
def test_an_answer_without_a_number_is_malformed(answer: str) -> None:
    with pytest.raises(Malformed):
        generic.parse_family(bytes.fromhex(answer))


@given(st.integers(0, 255), st.dictionaries(st.integers(1, 0x3FFF), st.binary(max_size=20)))
def test_command_and_attributes_come_back(command: int, attrs: dict[int, bytes]) -> None:
    packed = [codec.attr(kind, value) for kind, value in attrs.items()]

    found, parsed = generic.parse(generic.header(command) + b"".join(packed))

    assert found == command
    assert {kind: bytes(value) for kind, value in parsed.items()} == attrs
