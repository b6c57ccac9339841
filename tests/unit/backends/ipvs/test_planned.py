"""Plans: whether there is anything to do, and what they say."""

from backends.ipvs.model import BOUND
from backends.ipvs.planned import IpvsPlan
from tests.unit.backends.ipvs.test_model import ADDRESSES, NFT, OPERATIONS, PLACE, SERVER, WEB


def test_a_plan_is_true_if_there_is_anything_to_do_or_to_look_after() -> None:
    assert not IpvsPlan((), {WEB: None})
    assert IpvsPlan((NFT,), {})
    assert IpvsPlan((), {}, drains=((SERVER, PLACE),))
    assert IpvsPlan((), {}, reaps=True)


def test_a_plan_is_described_line_by_line_with_whom_each_line_is_for() -> None:
    planned = IpvsPlan((NFT, ADDRESSES, OPERATIONS), {}, drains=((SERVER, PLACE),))

    *lines, last = planned.describe()

    whose = "# default/web:http (TCP, IPv4)"
    assert lines == [
        "1 delete table ip6 sliceproxy-ipvs",
        "1 add table ip6 sliceproxy-ipvs",
        f"1 add set ip sliceproxy-ipvs {BOUND}",
        "1 write chain ip sliceproxy-ipvs chain",
        f"1 delete element ip sliceproxy-ipvs services 10.96.0.10 . tcp . 80  {whose}",
        "1 delete element ip sliceproxy-ipvs services 10.96.0.10 . tcp . 81",
        f"1 add element ip6 sliceproxy-ipvs externals ::a60:a . tcp . 80 : mark 0xa6000005  {whose}",
        "2 make device sliceproxy-ipvs",
        f"2 bind 10.96.0.10  {whose}",
        "2 unbind 10.96.0.11",
        f"3 add server TCP 10.96.0.10:80 wrr  {whose}",
        f"3 set destination TCP 10.96.0.10:80 10.1.0.1:80 weight 0  {whose}",
        "3 del server mark 0xa6000005 (IPv4)",
    ]
    assert last == "TCP 10.96.0.10:80: 10.1.0.1:80 drains"
