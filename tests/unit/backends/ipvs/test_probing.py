"""What the kernel is tried for, how what it lacks is named, and that nothing stays."""

import errno
from collections.abc import Iterator, Sequence

import pytest

from backends.ipvs import probing
from backends.ipvs.kernel import Doors
from backends.ipvs.layout import IpvsSettings, Layout
from backends.ipvs.model import DEVICE, PROBE_TABLE
from backends.ipvs.nft_side import NftSide
from backends.kernel import ipvs_messages, nft_messages
from backends.kernel import nft as nft_door
from backends.kernel.ipvs import Ipvs, Refusal
from backends.kernel.ipvs_marks import NUMBERS as MARKED
from backends.kernel.ipvs_objects import VirtualServer, marked
from backends.kernel.links import Links
from backends.kernel.nft import Nft, Refused
from backends.kernel.nft_numbers import NFPROTO_IPV4, MessageKind
from backends.kernel.nft_table import NUMBERS
from proxy.errors import KernelError, Unsupported
from proxy.model import FAMILIES
from proxy.netlink.codec import Request
from tests.fakes.links import LinksKernel
from tests.unit.backends.ipvs.driving import CIDRS, Kernel, nft_of

LAYOUT = Layout(IpvsSettings(families=FAMILIES, cluster_cidrs=CIDRS, scheduler="wlc"))
TRIED = marked("IPv4", LAYOUT.marks.mark(MARKED - 1, "here"))


@pytest.fixture
def fakes() -> Iterator[Kernel]:
    """Whatever opens a socket talks to these."""
    fakes = Kernel()
    with fakes.entered():
        yield fakes


@pytest.fixture
def doors(fakes: Kernel) -> Doors:
    return Doors(NftSide(Nft()), Ipvs(), Links())


def probe(doors: Doors, layout: Layout) -> None:
    """Try everything, as the backend does."""
    doors.side.try_out(layout)
    probing.probe(doors, layout)


class Limited(Nft):
    """A kernel that lacks an expression: it refuses every rule that has it, and shows what it was told."""

    def __init__(self, lacking: str) -> None:
        super().__init__()
        self._lacking = lacking.encode() + b"\0"
        self.seen: list[Request] = []

    def commit(self, messages: Sequence[Request]) -> None:
        self.seen += messages
        for index, message in enumerate(messages):
            if message.kind == MessageKind.NEWRULE and self._lacking in message.payload:
                raise Refused(
                    "a transaction", (nft_door.Refusal(index, 95, "Operation not supported"),)
                )
        super().commit(messages)


def is_clean(fakes: Kernel, doors: Doors) -> bool:
    """Whether nothing is left of a probe."""
    has_table = any(nft_of(doors).find_table(number, PROBE_TABLE) for number in NUMBERS.values())
    return not has_table and not doors.ipvs.list_servers() and list(fakes.links.links) == [1]


def test_a_kernel_that_can_do_everything_is_accepted_and_left_as_it_was(
    fakes: Kernel, doors: Doors
) -> None:
    probe(doors, LAYOUT)

    assert is_clean(fakes, doors)


@pytest.mark.parametrize(
    "scheduler", ["wlc", "mh"], ids=["the one configured", "the one of session affinity"]
)
def test_a_scheduler_that_is_not_there_is_named(
    fakes: Kernel, doors: Doors, scheduler: str
) -> None:
    fakes.ipvs.schedulers.discard(scheduler)

    with pytest.raises(Unsupported, match="no such scheduler") as caught:
        probe(doors, LAYOUT)

    assert caught.value.feature == f"IPVS scheduler {scheduler} (IPv4)"
    assert is_clean(fakes, doors)


def test_a_scheduler_nobody_needs_may_be_missing(fakes: Kernel, doors: Doors) -> None:
    fakes.ipvs.schedulers = {"wlc", "mh"}

    probe(doors, LAYOUT)


def test_a_virtual_server_that_is_not_there_after_all_proves_nothing(doors: Doors) -> None:
    class Forgetful(Ipvs):
        def carry_out(self, messages: Sequence[bytes]) -> list[Refusal]:
            return []

    with Forgetful() as forgetful, pytest.raises(Unsupported, match="nothing was made"):
        probe(doors._replace(ipvs=forgetful), LAYOUT)


@pytest.mark.parametrize("lacking", ["masq", "reject", "fib", "ct"])
def test_an_expression_that_a_kernel_lacks_is_named_with_its_rule(
    fakes: Kernel, doors: Doors, lacking: str
) -> None:
    with Limited(lacking) as limited, pytest.raises(Unsupported, match="not supported") as caught:
        probe(doors._replace(side=NftSide(limited)), LAYOUT)

    assert caught.value.feature.startswith("IPv4 rule of chain ")
    assert is_clean(fakes, doors)


def test_every_rule_is_tried_where_no_packet_sees_it(doors: Doors) -> None:
    with Limited("nothing") as limited:
        probe(doors._replace(side=NftSide(limited)), LAYOUT)
        seen = limited.seen

    for family in FAMILIES:
        of_family = [each for each in seen if each.payload[0] == NUMBERS[family]]
        tried = b"".join([each.payload for each in of_family if each.kind == MessageKind.NEWRULE])
        assert all(
            rule.expressions in tried for chain in LAYOUT.chains(family) for rule in chain.rules
        )
        (table,) = [each for each in of_family if each.kind == MessageKind.NEWTABLE]
        assert table == nft_messages.new_table(NUMBERS[family], PROBE_TABLE, is_dormant=True)


def test_a_kernel_without_dummy_devices_is_not_enough_unless_ours_is_there() -> None:
    fakes = Kernel()
    fakes.links = LinksKernel(kinds=())
    with fakes.entered():
        doors = Doors(NftSide(Nft()), Ipvs(), Links())

    with pytest.raises(Unsupported) as caught:
        probe(doors, LAYOUT)
    assert caught.value.feature == "dummy devices"
    assert is_clean(fakes, doors)

    fakes.links.add(DEVICE, "dummy")
    probe(doors, LAYOUT)


def test_missing_rights_are_called_by_their_name_whoever_meets_them(doors: Doors) -> None:
    class NoServers(Ipvs):
        def carry_out(self, messages: Sequence[bytes]) -> list[Refusal]:
            return [Refusal(0, errno.EPERM, "not permitted")]

    class NoDevices(Links):
        def ensure_dummy(self, name: str) -> int:
            raise KernelError("make a device", errno.EPERM, "not permitted")

    for limited in (
        doors._replace(ipvs=NoServers()),
        doors._replace(links=NoDevices()),
    ):
        with pytest.raises(Unsupported, match="capability NET_ADMIN"):
            probing.probe(limited, LAYOUT)


def test_an_attempt_that_was_cut_off_is_cleared_away(fakes: Kernel, doors: Doors) -> None:
    nft_of(doors).commit([nft_messages.new_table(NFPROTO_IPV4, PROBE_TABLE, is_dormant=True)])
    nft_of(doors).commit([nft_messages.new_chain(NFPROTO_IPV4, PROBE_TABLE, "half")])
    doors.ipvs.carry_out([ipvs_messages.new_server(VirtualServer(TRIED, "wlc"))])
    assert not is_clean(fakes, doors)

    probe(doors, LAYOUT)

    assert is_clean(fakes, doors)
