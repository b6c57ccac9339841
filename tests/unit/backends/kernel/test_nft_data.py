import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.kernel.nft_data import pack_value, pack_verdict, parse_value, parse_verdict
from backends.kernel.nft_numbers import VerdictCode
from proxy.netlink import codec
from proxy.netlink.codec import Malformed

names = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1)


def content(attribute: bytes) -> memoryview:
    ((_, view),) = codec.iter_attrs(attribute)
    return view


@given(st.integers(-(2**31), 2**31 - 1), st.just("") | names)
def test_a_verdict_comes_back_as_it_was_packed(code: int, chain: str) -> None:
    assert parse_verdict(pack_verdict(code, chain)) == (code, chain)


def test_a_verdict_without_a_chain_names_none() -> None:
    packed = pack_verdict(VerdictCode.DROP)

    assert packed == bytes.fromhex("0c000280 08000100 00000000")


@given(st.binary(max_size=64))
def test_data_come_back_without_their_padding(data: bytes) -> None:
    assert parse_value(content(pack_value(3, data))) == data


def test_a_verdict_is_no_data_and_data_are_no_verdict() -> None:
    with pytest.raises(Malformed):
        parse_value(pack_verdict(VerdictCode.ACCEPT))
    with pytest.raises(Malformed):
        parse_verdict(content(pack_value(3, b"data")))


def test_a_verdict_without_a_code_is_malformed() -> None:
    with pytest.raises(Malformed):
        parse_verdict(codec.nested(2, codec.attr_string(2, "chain")))
