from backends.kernel.nft_table import ChainSpec, RuleSpec
from backends.kernel.nft_transaction import Batch, Element, Transaction
from backends.nftables.layout import Layout, NftSettings
from backends.nftables.model import CLUSTER_IPS, SERVICES
from tests.model_builders import make_key

WEB = make_key("default/web", "http")
SPEC = Layout(NftSettings(families=("IPv4",))).sets("IPv4")[0]
FULL = Transaction(
    rebuild=("IPv6",),
    tables=("IPv6",),
    sets=(("IPv4", SPEC),),
    chains=(("IPv4", ChainSpec("chain", None, ())),),
    deletes=(
        Batch("IPv4", SERVICES, (Element(b"\1", "drop", WEB), Element(b"\2", "drop", None))),
    ),
    adds=(
        Batch("IPv4", SERVICES, (Element(b"\1", "goto there", WEB),)),
        Batch("IPv6", CLUSTER_IPS, (Element(b"\3", None, WEB),)),
        Batch("IPv4", "endpoints-tcp", (Element(b"\4", b"\xff", WEB),)),
    ),
    gone_chains=(("IPv4", "old"),),
    gone_sets=(("IPv6", "old"),),
)


def test_the_size_of_a_transaction_is_the_number_of_objects_it_writes() -> None:
    assert FULL.size == 6 + 5
    assert Transaction().size == 0


def test_what_identifies_a_chain_is_its_hook_and_the_comments_of_its_rules() -> None:
    chain = ChainSpec("chain", None, (RuleSpec(b"one", "why 1"), RuleSpec(b"two", "why 2")))

    assert chain.facts == (None, ("why 1", "why 2"))
