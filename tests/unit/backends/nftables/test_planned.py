"""Plans: whether there is anything to do, and what they say."""

from backends.kernel.nft_transaction import Batch, Element, Transaction
from backends.nftables.model import CLUSTER_IPS
from backends.nftables.planned import NftPlan
from tests.unit.backends.nftables.test_model import FULL, WEB


def test_a_plan_without_transactions_is_false_even_if_service_ports_are_concerned() -> None:
    assert not NftPlan((), {WEB: None})
    assert NftPlan((FULL,), {})


def test_a_plan_is_described_line_by_line_with_whom_each_line_is_for() -> None:
    second = Transaction(gone_chains=(("IPv4", "older"),))

    assert NftPlan((FULL, second), {}).describe() == [
        "1 delete table ip6 sliceproxy",
        "1 add table ip6 sliceproxy",
        "1 add set ip sliceproxy services",
        "1 write chain ip sliceproxy chain",
        "1 delete element ip sliceproxy services 01 : drop  # default/web:http (TCP, IPv4)",
        "1 delete element ip sliceproxy services 02 : drop",
        "1 add element ip sliceproxy services 01 : goto there  # default/web:http (TCP, IPv4)",
        "1 add element ip6 sliceproxy cluster-ips 03  # default/web:http (TCP, IPv4)",
        "1 add element ip sliceproxy endpoints-tcp 04 : ff  # default/web:http (TCP, IPv4)",
        "1 delete chain ip sliceproxy old",
        "1 delete set ip6 sliceproxy old",
        "2 delete chain ip sliceproxy older",
    ]


def test_elements_are_described_in_words() -> None:
    added = Batch("IPv4", CLUSTER_IPS, (Element(bytes([10, 96, 0, 10]), None, WEB),))

    assert NftPlan((Transaction(adds=(added,)),), {}).describe() == [
        "1 add element ip sliceproxy cluster-ips 10.96.0.10  # default/web:http (TCP, IPv4)"
    ]
