"""Elements in words, as the stock tool prints them; and bytes that are not as we make them."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.kernel.nft_table import Data
from backends.nftables.words import element_words
from proxy.model import FAMILIES, Family

V4, V6 = bytes([10, 96, 0, 80]), bytes.fromhex("fd00" + "00" * 13 + "50")
FORMER = "ranges-0123456789abcdef-00112233"
NUMBER = struct.pack("=I", 0x1000_0030)
WEB = bytes([6, 0, 0, 0, 0, 80, 0, 0])


@pytest.mark.parametrize(
    ("family", "name", "key", "data", "words"),
    [
        (
            "IPv4",
            "services",
            V4 + WEB,
            "goto pick-tcp-8",
            "services 10.96.0.80 . tcp . 80 : goto pick-tcp-8",
        ),
        ("IPv6", "services", V6 + WEB, "drop", "services fd00::50 . tcp . 80 : drop"),
        ("IPv4", "refused", V4 + bytes([17]) + WEB[1:], None, "refused 10.96.0.80 . udp . 80"),
        ("IPv4", "refused", V4 + bytes([99]) + WEB[1:], None, "refused 10.96.0.80 . 99 . 80"),
        ("IPv4", "cluster-ips", V4, None, "cluster-ips 10.96.0.80"),
        ("IPv4", "hairpin", V4 + V4, None, "hairpin 10.96.0.80 . 10.96.0.80"),
        (
            "IPv4",
            "endpoints-tcp",
            V4 + b"\0\x50\0\0" + struct.pack("=I", 3),
            bytes([10, 1, 0, 2, 0x1F, 0x90, 0, 0]),
            "endpoints-tcp 10.96.0.80 . 80 . 3 : 10.1.0.2 . 8080",
        ),
        ("IPv4", "services", b"", "drop", "services * : drop"),
        (
            "IPv4",
            "nodeports",
            WEB,
            "goto external-nodeport-tcp-8",
            "nodeports tcp . 80 : goto external-nodeport-tcp-8",
        ),
        ("IPv6", "nodeports-refused", WEB, None, "nodeports-refused tcp . 80"),
        (
            "IPv4",
            "nodeport-endpoints-udp",
            b"\0\x50\0\0" + struct.pack("=I", 65536),
            bytes([10, 1, 0, 2, 0x1F, 0x90, 0, 0]),
            "nodeport-endpoints-udp 80 . 65536 : 10.1.0.2 . 8080",
        ),
        (
            "IPv4",
            "ranges-24",
            V4 + WEB + bytes([192, 0, 2, 0]),
            None,
            "ranges-24 10.96.0.80 . tcp . 80 . 192.0.2.0",
        ),
        ("IPv4", "service-cidrs", V4 + b"\0", None, "service-cidrs from 10.96.0.80"),
        ("IPv6", "service-cidrs", V6 + b"\1", None, "service-cidrs before fd00::50"),
        ("IPv6", "ranges-64", V6 + WEB + V6, None, "ranges-64 fd00::50 . tcp . 80 . fd00::50"),
        (
            "IPv4",
            "affinity-slots",
            struct.pack("=II", 0x1000_0000, 2),
            NUMBER,
            "affinity-slots 1000:0 . 2 : 1000:30",
        ),
        (
            "IPv4",
            "affinity-endpoints-local",
            NUMBER,
            bytes([10, 1, 0, 2, 0x1F, 0x90, 0, 0]),
            "affinity-endpoints-local 1000:30 : 10.1.0.2 . 8080",
        ),
        (
            "IPv6",
            "affinity-services",
            V6 + WEB,
            struct.pack("=I", 0x1000_0000),
            "affinity-services fd00::50 . tcp . 80 : 1000:0",
        ),
        (
            "IPv4",
            "affinity-nodeports",
            WEB,
            struct.pack("=I", 0x7FFF_0000),
            "affinity-nodeports tcp . 80 : 7fff:0",
        ),
        ("IPv4", "services", b"\1\2", None, "services 0102"),
        ("IPv4", "somebody-elses", V4, b"\7", "somebody-elses 0a600050 : 07"),
    ],
)
def test_an_element_in_words(
    family: Family, name: str, key: bytes, data: Data, words: str
) -> None:
    assert element_words(family, name, key, data) == words


@given(
    st.sampled_from(FAMILIES),
    st.sampled_from(
        [
            *("services", "refused", "cluster-ips", "hairpin", "endpoints-udp", "other"),
            *("nodeports", "service-cidrs", "guarded", "ranges-32", "ranges-128", FORMER),
            *("affinity-services", "affinity-nodeports", "affinity-slots", "affinity-endpoints"),
        ]
    ),
    st.binary(max_size=48),
    st.one_of(st.none(), st.binary(max_size=24), st.just("drop")),
)
def test_whatever_somebody_put_there_has_words(
    family: Family, name: str, key: bytes, data: Data
) -> None:
    words = element_words(family, name, key, data)

    assert words.startswith(f"{name} ")
    assert words.isprintable()
