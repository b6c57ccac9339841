"""The nftables door on a real kernel, with the stock tool as the judge of what we send."""

import errno
import socket
import struct
import time
from collections.abc import Iterator

import pytest

from backends.kernel import nft_elements, nft_expressions, nft_messages
from backends.kernel.nft import Nft, Refused
from backends.kernel.nft_elements import pack_data_element, pack_key_element, pack_verdict_element
from backends.kernel.nft_expressions import Verdict
from backends.kernel.nft_messages import Chain, Rule, Set
from backends.kernel.nft_numbers import NFPROTO_IPV4, NFPROTO_IPV6, VerdictCode
from backends.kernel.nft_userdata import declare, set_userdata
from e2e import nft_sketch
from e2e.namespace import Namespace
from e2e.nft_sketch import IPV4, IPV6, Words
from proxy.errors import KernelError
from proxy.netlink import codec
from proxy.netlink.codec import Request
from proxy.netlink.socket import DumpInterrupted, NetlinkSocket

pytestmark = pytest.mark.requires("nftables")
both_families = pytest.mark.parametrize("words", [IPV4, IPV6], ids=["ip", "ip6"])

TABLE = "ours"
MAP = "endpoints"


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    with Namespace("nft") as made:
        yield made


@pytest.fixture
def nft(namespace: Namespace) -> Iterator[Nft]:
    with namespace.entered():
        door = Nft()
    with door:
        yield door


def stock_nft(namespace: Namespace, *arguments: str, stdin: str = "") -> str:
    return namespace.run(["nft", *arguments], stdin=stdin)


# --- the stock tool as the judge


def comparable(found: Rule) -> tuple[str, bytes]:
    return found.comment, found.expressions


@both_families
def test_our_rules_are_byte_for_byte_those_of_nft(
    namespace: Namespace, nft: Nft, words: Words
) -> None:
    stock_nft(namespace, "-f", "-", stdin=nft_sketch.nft_text("theirs", words))
    nft.commit(nft_sketch.requests(TABLE, words))

    theirs = {chain.name: chain for chain in nft.list_chains(words.number, "theirs")}
    ours = {chain.name: chain for chain in nft.list_chains(words.number, TABLE)}
    assert ours.keys() == theirs.keys()
    for name, chain in theirs.items():
        assert kept(ours[name]) == kept(chain)
        expected = [comparable(r) for r in nft.list_rules(words.number, "theirs", name)]
        assert [comparable(r) for r in nft.list_rules(words.number, TABLE, name)] == expected
        assert name == "input" or expected


def kept(chain: Chain) -> tuple[object, ...]:
    return chain.family, chain.name, chain.base, chain.comment


@both_families
def test_our_sets_have_the_attributes_nft_gives_its_own(
    namespace: Namespace, nft: Nft, words: Words
) -> None:
    stock_nft(namespace, "-f", "-", stdin=nft_sketch.nft_text("theirs", words))
    nft.commit(nft_sketch.requests(TABLE, words))

    def sets(table: str) -> dict[str, bytes]:
        door = NetlinkSocketInside(namespace)
        return {name: drop(payload) for name, payload in door.raw_sets(words.number, table)}

    assert sets(TABLE) == sets("theirs")
    assert len(sets(TABLE)) == 10


class NetlinkSocketInside:
    """Reads sets as bytes, for comparing what our parser does not look at too."""

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace

    def raw_sets(self, family: int, table: str) -> list[tuple[str, memoryview]]:
        with self._namespace.entered():
            door = NetlinkSocket(codec.NETLINK_NETFILTER)
        with door:
            payloads = [
                payload
                for piece in door.dump(nft_messages.list_sets(family, table))
                for payload in piece
            ]
        return [(nft_messages.parse_set(payload).name, payload) for payload in payloads]


def drop(payload: memoryview) -> bytes:
    """All attributes of a listed set but table and handle, in order."""
    attrs = codec.iter_attrs(payload, 4)
    return b"".join([codec.attr(kind, bytes(v)) for kind, v in attrs if kind not in {1, 16}])


@both_families
def test_our_rules_are_parsed_into_what_was_packed(nft: Nft, words: Words) -> None:
    nft.commit(nft_sketch.requests(TABLE, words))

    for chain, rules in nft_sketch.rules(words).items():
        listed = nft.list_rules(words.number, TABLE, chain)
        found = [nft_expressions.parse_expressions(rule.expressions) for rule in listed]
        assert found == rules


@both_families
def test_the_stock_tool_lists_ours_like_its_own_and_reads_the_list_again(
    namespace: Namespace, nft: Nft, words: Words
) -> None:
    nft.commit(nft_sketch.requests(TABLE, words))
    if words is IPV4:
        nft.commit(nft_sketch.element_requests(TABLE))
    listed = stock_nft(namespace, "-s", "list", "ruleset")
    assert "unknown" not in listed

    stock_nft(namespace, "-c", "-f", "-", stdin=listed)

    stock_nft(namespace, "flush", "ruleset")
    stock_nft(namespace, "-f", "-", stdin=nft_sketch.nft_text(TABLE, words))
    if words is IPV4:
        stock_nft(namespace, "-f", "-", stdin=nft_sketch.elements_text(TABLE))
    assert stock_nft(namespace, "-s", "list", "ruleset") == listed


def test_our_elements_are_those_of_nft(namespace: Namespace, nft: Nft) -> None:
    for table in ("theirs", TABLE):
        nft.commit(nft_sketch.requests(table, IPV4))
    stock_nft(namespace, "-f", "-", stdin=nft_sketch.elements_text("theirs"))

    nft.commit(nft_sketch.element_requests(TABLE))

    for name, elements in nft_sketch.elements().items():
        theirs = sorted(raw_elements(namespace, "theirs", name))
        assert sorted(raw_elements(namespace, TABLE, name)) == theirs
        assert len(theirs) == len(elements)
        plain = {e.key: e.data for e in elements}
        listed = dict(
            pair for part in nft.list_elements(NFPROTO_IPV4, TABLE, name) for pair in part
        )
        assert listed == plain


def raw_elements(namespace: Namespace, table: str, name: str) -> list[bytes]:
    with namespace.entered():
        door = NetlinkSocket(codec.NETLINK_NETFILTER)
    with door:
        return [
            bytes(entry)
            for piece in door.dump(nft_elements.list_elements(NFPROTO_IPV4, table, name))
            for payload in piece
            for _, entry in codec.iter_attrs(nft_messages.attributes(payload)[3])
        ]


def test_ranges_come_back_with_their_ends(nft: Nft, namespace: Namespace) -> None:
    nft.commit(nft_sketch.requests(TABLE, IPV4))
    nft.commit(nft_sketch.element_requests(TABLE))

    for name in ("ranges", "ranges-of-ports"):
        entries = raw_elements(namespace, TABLE, name)
        found = [nft_elements.parse_element(entry) for entry in entries]
        assert sorted(found) == sorted(nft_sketch.elements()[name])


# --- transactions


def new_map(name: str = MAP, *, size: int = 0) -> list[Request]:
    """A table with a map from address, port and number to address and port, and a chain."""
    key = declare("ip daddr . tcp dport . numgen random mod 65536")
    data = declare("ip daddr . tcp dport")
    return [
        nft_messages.new_table(NFPROTO_IPV4, TABLE, "a comment"),
        nft_messages.new_set(
            NFPROTO_IPV4,
            TABLE,
            name,
            key_type=key.type,
            key_length=key.length,
            data_type=data.type,
            data_length=data.length,
            userdata=set_userdata(key, data),
            size=size,
        ),
        nft_messages.new_chain(NFPROTO_IPV4, TABLE, "c"),
    ]


def key(number: int) -> bytes:
    return struct.pack(">III", 0x0A600001, 443 << 16, number)


def data(number: int) -> bytes:
    return struct.pack(">II", 0x0A000000 + number, 8080 << 16)


def add(numbers: range, name: str = MAP) -> list[Request]:
    packed = [pack_data_element(key(n), data(n)) for n in numbers]
    return nft_elements.new_elements(NFPROTO_IPV4, TABLE, name, packed)


def delete(numbers: range) -> list[Request]:
    packed = [pack_key_element(key(n)) for n in numbers]
    return nft_elements.del_elements(NFPROTO_IPV4, TABLE, MAP, packed)


def filled_map() -> list[Request]:
    """A map of 20,000 elements that can hold no more, which the kernel therefore never resizes."""
    return [*new_map(size=20_000), *add(range(20_000))]


def content(nft: Nft) -> dict[bytes, nft_elements.Data]:
    """The elements of the map. The kernel may still be resizing it, but says at some time that it is done."""
    deadline = time.monotonic() + 30
    while True:
        try:
            pairs = [p for part in nft.list_elements(NFPROTO_IPV4, TABLE, MAP) for p in part]
        except DumpInterrupted:
            assert time.monotonic() < deadline, "the map is resized for ever"
        else:
            assert len(pairs) == len(dict(pairs))
            return dict(pairs)


def test_a_transaction_is_carried_out_as_a_whole_and_raises_the_generation(nft: Nft) -> None:
    before = nft.generation()

    nft.commit([*new_map(), *add(range(3))])

    assert nft.generation() == before + 1
    assert content(nft) == {key(n): data(n) for n in range(3)}
    table = nft.find_table(NFPROTO_IPV4, TABLE)
    assert table is not None
    assert table.comment == "a comment"
    assert nft.find_table(NFPROTO_IPV6, TABLE) is None


def test_an_empty_transaction_leaves_the_generation(nft: Nft) -> None:
    before = nft.generation()

    nft.commit([])

    assert nft.generation() == before


def test_a_hundred_thousand_elements_go_in_and_out_in_one_transaction_each(nft: Nft) -> None:
    everything = range(100_000)

    nft.commit([*new_map(), *add(everything)])
    assert content(nft) == {key(n): data(n) for n in everything}

    nft.commit(delete(everything))
    assert content(nft) == {}


def test_a_changed_element_is_deleted_and_added_in_one_transaction(nft: Nft) -> None:
    nft.commit([*new_map(), *add(range(3))])
    changed = pack_data_element(key(1), data(9))
    again = nft_elements.new_elements(NFPROTO_IPV4, TABLE, MAP, [changed])

    with pytest.raises(Refused) as caught:
        nft.commit(again)
    assert caught.value.errno == errno.EEXIST

    nft.commit([*delete(range(1, 2)), *again])
    assert content(nft) == {key(0): data(0), key(1): data(9), key(2): data(2)}


def test_a_refused_transaction_does_nothing_and_names_every_culprit(nft: Nft) -> None:
    nft.commit([*new_map(), *add(range(10))])
    before = nft.generation()
    missing = [pack_key_element(key(n)) for n in (3, 4, 77)]
    messages = [
        *add(range(20, 25)),
        *nft_elements.del_elements(NFPROTO_IPV4, TABLE, MAP, missing),
        nft_messages.del_chain(NFPROTO_IPV4, TABLE, "nowhere"),
        nft_messages.new_chain(NFPROTO_IPV4, TABLE, "fine"),
    ]

    with pytest.raises(Refused) as caught:
        nft.commit(messages)

    refusals = caught.value.refusals
    assert [(r.index, r.errno) for r in refusals] == [(1, errno.ENOENT), (2, errno.ENOENT)]
    assert nft.generation() == before
    assert content(nft) == {key(n): data(n) for n in range(10)}
    nft.commit(add(range(20, 25)))
    assert len(content(nft)) == 15, "nothing was left over from the refused transaction"


@pytest.mark.parametrize("guilty", [0, 1, 1700, 2999])
def test_the_element_at_fault_is_found_in_its_message(nft: Nft, guilty: int) -> None:
    nft.commit([*new_map(), *add(range(guilty, guilty + 1))])
    packed = [pack_data_element(key(n), data(n + (n == guilty))) for n in range(3000)]
    messages = nft_elements.new_elements(NFPROTO_IPV4, TABLE, MAP, packed)

    with pytest.raises(Refused) as caught:
        nft.commit(messages)

    (refusal,) = caught.value.refusals
    assert refusal.index is not None
    if refusal.offset is None:
        pytest.skip("this kernel does not say which element is at fault")
    in_message = nft_elements.element_at(messages[refusal.index], refusal.offset)
    per_message = 1638  # elements of 40 bytes in an attribute of 65535
    assert in_message is not None
    assert refusal.index * per_message + in_message == guilty


def test_a_verdict_to_a_chain_that_is_not_there_is_refused(nft: Nft) -> None:
    nft.commit(nft_sketch.requests(TABLE, IPV4))
    element = pack_verdict_element(bytes(12), "nowhere")

    with pytest.raises(Refused) as caught:
        nft.commit(nft_elements.new_elements(NFPROTO_IPV4, TABLE, "services", [element]))

    assert caught.value.errno == errno.ENOENT


def test_more_refusals_than_the_socket_can_hold_are_still_a_refusal(nft: Nft) -> None:
    shrink_receive_buffer(nft)
    gone = [nft_messages.del_chain(NFPROTO_IPV4, "nowhere", f"c{n}") for n in range(5000)]

    with pytest.raises(Refused) as caught:
        nft.commit(gone)

    assert 0 < len(caught.value.refusals) < len(gone)
    nft.commit(new_map())
    assert content(nft) == {}


def shrink_receive_buffer(nft: Nft) -> None:
    force = 33  # SO_RCVBUFFORCE
    with socket.socket(fileno=socket.dup(nft._commands.fileno())) as same:
        same.setsockopt(socket.SOL_SOCKET, force, 4096)


def test_a_transaction_beyond_the_send_buffer_is_an_error_and_does_nothing(nft: Nft) -> None:
    nft.commit(new_map())
    before = nft.generation()
    with socket.socket(fileno=socket.dup(nft._commands.fileno())) as same:
        same.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)

    with pytest.raises(KernelError) as caught:
        nft.commit(add(range(10_000)))

    assert caught.value.errno == errno.EMSGSIZE
    assert nft.generation() == before
    nft.commit(add(range(10)))
    assert len(content(nft)) == 10


# --- reading


def test_single_elements_are_found_by_their_keys(nft: Nft) -> None:
    nft.commit([*new_map(), *add(range(3000))])

    found = nft.find_elements(NFPROTO_IPV4, TABLE, MAP, [key(n) for n in range(1000, 4000)])

    assert found == {key(n): data(n) for n in range(1000, 3000)}


def test_one_chain_or_set_is_found_by_its_name(nft: Nft) -> None:
    nft.commit(nft_sketch.requests(TABLE, IPV6))

    chain = nft.find_chain(NFPROTO_IPV6, TABLE, "output")
    found = nft.find_set(NFPROTO_IPV6, TABLE, "services")

    assert chain in nft.list_chains(NFPROTO_IPV6, TABLE)
    assert found in nft.list_sets(NFPROTO_IPV6, TABLE)
    assert nft.find_chain(NFPROTO_IPV6, TABLE, "nowhere") is None
    assert nft.find_set(NFPROTO_IPV6, TABLE, "nowhere") is None


def test_a_table_that_is_not_there_has_no_rules_or_chains_and_its_sets_are_an_error(
    nft: Nft,
) -> None:
    assert nft.list_rules(NFPROTO_IPV4, "nowhere") == []
    assert nft.list_chains(NFPROTO_IPV4, "nowhere") == []
    with pytest.raises(KernelError) as caught:
        nft.list_sets(NFPROTO_IPV4, "nowhere")
    assert caught.value.errno == errno.ENOENT
    with pytest.raises(KernelError) as caught:
        list(nft.list_elements(NFPROTO_IPV4, "nowhere", "x"))
    assert caught.value.errno == errno.ENOENT


def test_a_list_is_interrupted_by_a_transaction_and_complete_without_one(nft: Nft) -> None:
    nft.commit(filled_map())
    blocks = nft.list_elements(NFPROTO_IPV4, TABLE, MAP)
    assert len(next(blocks)) < 2000

    nft.commit([nft_messages.new_chain(NFPROTO_IPV4, TABLE, "meanwhile")])

    with pytest.raises(DumpInterrupted):
        list(blocks)
    assert len(content(nft)) == 20_000


def test_a_list_need_not_be_strict(nft: Nft) -> None:
    nft.commit(filled_map())
    blocks = nft.list_elements(NFPROTO_IPV4, TABLE, MAP, is_strict=False)
    first = next(blocks)

    nft.commit([nft_messages.new_chain(NFPROTO_IPV4, TABLE, "meanwhile")])

    assert len(first) + sum(map(len, blocks)) == 20_000


def test_a_list_of_chains_is_interrupted_by_a_transaction(nft: Nft, namespace: Namespace) -> None:
    names = [f"chain-{n:04}" for n in range(3000)]
    chains = [nft_messages.new_chain(NFPROTO_IPV4, TABLE, name) for name in names]
    nft.commit([nft_messages.new_table(NFPROTO_IPV4, TABLE), *chains])
    with namespace.entered():
        door = NetlinkSocket(codec.NETLINK_NETFILTER)

    with door:
        pieces = door.dump(nft_messages.list_chains(NFPROTO_IPV4))
        next(pieces)
        nft.commit([nft_messages.new_chain(NFPROTO_IPV4, TABLE, "meanwhile")])
        with pytest.raises(DumpInterrupted):
            list(pieces)

    assert [c.name for c in nft.list_chains(NFPROTO_IPV4, TABLE)] == [*names, "meanwhile"]


def test_a_list_left_early_is_in_nobodys_way(nft: Nft) -> None:
    nft.commit(filled_map())

    for _ in nft.list_elements(NFPROTO_IPV4, TABLE, MAP):
        break

    assert [table.name for table in nft.list_tables(NFPROTO_IPV4)] == [TABLE]
    assert len(content(nft)) == 20_000


def test_a_second_list_interrupts_the_first(nft: Nft) -> None:
    nft.commit(filled_map())
    blocks = nft.list_elements(NFPROTO_IPV4, TABLE, MAP)
    next(blocks)

    assert len(nft.list_sets(NFPROTO_IPV4, TABLE)) == 1

    with pytest.raises(DumpInterrupted):
        next(blocks)


# --- taking away


def test_chains_sets_and_rules_are_taken_away_one_by_one(nft: Nft) -> None:
    drop_all = nft_expressions.pack_expressions([Verdict(VerdictCode.DROP)])
    rule = nft_messages.new_rule(NFPROTO_IPV4, TABLE, "c", drop_all, "why")
    nft.commit([*new_map(), *add(range(3)), rule, rule, rule])
    first, *_ = nft.list_rules(NFPROTO_IPV4, TABLE, "c")
    assert first.comment == "why"

    nft.commit([nft_messages.del_rule(NFPROTO_IPV4, TABLE, "c", first.handle)])
    assert len(nft.list_rules(NFPROTO_IPV4, TABLE, "c")) == 2

    nft.commit([nft_messages.flush_chain(NFPROTO_IPV4, TABLE, "c")])
    assert nft.list_rules(NFPROTO_IPV4, TABLE) == []

    nft.commit([nft_elements.flush_set(NFPROTO_IPV4, TABLE, MAP)])
    assert content(nft) == {}

    nft.commit(
        [
            nft_messages.del_set(NFPROTO_IPV4, TABLE, MAP),
            nft_messages.del_chain(NFPROTO_IPV4, TABLE, "c"),
        ]
    )
    assert (nft.list_sets(NFPROTO_IPV4, TABLE), nft.list_chains(NFPROTO_IPV4, TABLE)) == ([], [])

    nft.commit([nft_messages.del_table(NFPROTO_IPV4, TABLE)])
    assert nft.list_tables(NFPROTO_IPV4) == []


def test_making_what_is_there_already_is_no_error(nft: Nft) -> None:
    nft.commit([*new_map(), *add(range(3))])

    nft.commit([*new_map(), *add(range(3))])

    assert len(content(nft)) == 3


def test_the_chains_of_a_dormant_table_are_not_hooked_in(namespace: Namespace, nft: Nft) -> None:
    base = nft_messages.BaseChain("filter", 1, 0, policy=0)
    nft.commit(
        [
            nft_messages.new_table(NFPROTO_IPV4, TABLE, is_dormant=True),
            nft_messages.new_chain(NFPROTO_IPV4, TABLE, "drop-all", base),
        ]
    )

    with namespace.entered():
        server = socket.create_server(("127.0.0.1", 0))
        with server, socket.create_connection(server.getsockname(), timeout=5):
            pass


def test_sets_are_read_back_as_they_were_made(nft: Nft) -> None:
    nft.commit(new_map())

    (found,) = nft.list_sets(NFPROTO_IPV4, TABLE)

    words = declare("ip daddr . tcp dport . numgen random mod 65536")
    value = declare("ip daddr . tcp dport")
    assert found == Set(
        family=NFPROTO_IPV4,
        table=TABLE,
        name=MAP,
        handle=found.handle,
        key_type=words.type,
        key_length=words.length,
        data_type=value.type,
        data_length=value.length,
        flags=8,
        userdata=set_userdata(words, value),
    )
