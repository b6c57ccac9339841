"""That a tree finds what was put into it, has one shape for one content, and changes little at a time."""

import ipaddress
import random
import shlex

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.iptables.model import Front, TreeName
from backends.iptables.tree import Tree, parse_lead, tree_of
from proxy.model import FAMILIES, PROTOCOLS, Family
from tests.desired_strategies import seeds
from tests.effort import examples

DEEPEST = 9
QUICK = settings(deadline=None, max_examples=examples(25))


def front(number: int, port: int = 80) -> Front:
    return Front(f"10.96.{number >> 8}.{number & 255}", "TCP", port)


def target_of(front: Front) -> str:
    return f"SLICEPROXY-S-{front.address}-{front.port}"


def random_front(rng: random.Random, family: Family, name: TreeName) -> Front:
    """Return a frontend of a world in which many share their lowest bits, their address or the beginning of their port."""
    low = rng.choice([rng.randrange(40), rng.randrange(1 << 16), 7 + (rng.randrange(64) << 12)])
    net = {"IPv4": 10 << 24, "IPv6": 0xFD << 120}[family]
    port = rng.choice([80, rng.randrange(1, 1 << 16), 30000 + rng.randrange(60)])
    address = "" if name == "N" else str(ipaddress.ip_address(net + low))
    return Front(address, rng.choice(PROTOCOLS), port)


def planted(fronts: list[Front], family: Family = "IPv4", name: TreeName = "C") -> Tree:
    tree = Tree(family, name)
    for each in fronts:
        tree.put(each, target_of(each))
    return tree


def texts(tree: Tree) -> dict[str, list[str]]:
    return {chain: tree.rules(chain) for chain in tree.chains()}


def find(tree: Tree, packet: Front) -> str | None:
    """Walk the rules of a tree as the kernel would."""
    chain: str | None = tree.root
    while chain is not None and tree.node(chain) is not None:
        words = (shlex.split(rule) for rule in tree.rules(chain))
        chain = next((rule[-1] for rule in words if matches(rule[:-2], packet)), None)
    return chain


def matches(words: list[str], packet: Front) -> bool:
    for option, value in zip(words[::2], words[1::2], strict=True):
        if option == "-p" and value != packet.protocol.lower():
            return False
        if option == "--dport":
            first, _, last = value.partition(":")
            if not int(first) <= packet.port <= int(last or first):
                return False
        if option == "-d":
            address, _, mask = value.partition("/")
            wanted, bits = int(ipaddress.ip_address(address)), ipaddress.ip_address(packet.address)
            if mask.isdecimal():
                mask = str(ipaddress.ip_network(f"{address}/{mask}").netmask)
            if int(bits) & int(ipaddress.ip_address(mask)) != wanted:
                return False
    return True


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", ["C", "X", "N"])
@QUICK
@given(seed=seeds)
def test_what_was_put_in_is_found_and_nothing_else(
    family: Family, name: TreeName, seed: int
) -> None:
    rng = random.Random(seed)
    fronts = {random_front(rng, family, name) for _ in range(rng.choice([3, 16, 17, 150]))}
    tree = planted(sorted(fronts), family, name)

    for each in rng.sample(sorted(fronts), min(len(fronts), 20)):
        assert find(tree, each) == target_of(each)
    for each in (random_front(rng, family, name) for _ in range(10)):
        assert find(tree, each) == (target_of(each) if each in fronts else None)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", ["C", "N"])
@QUICK
@given(seed=seeds)
def test_the_shape_depends_on_the_content_alone(family: Family, name: TreeName, seed: int) -> None:
    rng = random.Random(seed)
    fronts = sorted({random_front(rng, family, name) for _ in range(rng.choice([10, 40, 150]))})
    passing = sorted({random_front(rng, family, name) for _ in range(100)} - set(fronts))
    tree = planted(rng.sample([*fronts, *passing], len(fronts) + len(passing)), family, name)
    for each in passing:
        tree.remove(each)

    assert texts(tree) == texts(planted(fronts, family, name))
    assert tree.fronts() == {each: target_of(each) for each in fronts}


@QUICK
@given(seed=seeds, count=st.sampled_from([5, 16, 60, 200]))
def test_a_tree_over_another_leaves_that_as_it_is_and_knows_every_difference(
    seed: int, count: int
) -> None:
    rng = random.Random(seed)
    fronts = sorted({random_front(rng, "IPv4", "X") for _ in range(count)})
    below = planted(fronts, name="X")
    before = texts(below)
    below.settle()
    over = Tree("IPv4", "X", below)

    for each in rng.sample(fronts, rng.randrange(len(fronts) + 1)):
        if rng.random() < 0.3:
            over.put(each, "elsewhere")
        else:
            over.remove(each)
    for _ in range(rng.randrange(40)):
        over.put(new := random_front(rng, "IPv4", "X"), target_of(new))

    assert texts(below) == before
    after = texts(over)
    assert {name for name in after if after[name] != before.get(name)} <= over.dirty
    assert over.dirty <= after.keys()
    assert before.keys() - after.keys() <= over.gone
    assert not over.gone & after.keys()
    assert after == texts(replayed(fronts, over))


def replayed(fronts: list[Front], over: Tree) -> Tree:
    """Return the tree that is left when the changes are made for good."""
    tree = planted(fronts, name="X")
    wanted = over.fronts()
    for each in fronts:
        if each not in wanted:
            tree.remove(each)
    for each, target in wanted.items():
        tree.put(each, target)
    return tree


def test_no_chain_is_longer_than_sixteen_rules() -> None:
    for fronts in (
        [front(number) for number in range(3000)],
        [front(1, port) for port in range(1, 3000)],
        [Front("", protocol, port) for port in range(30000, 32768) for protocol in PROTOCOLS],
    ):
        tree = planted(fronts, name="C" if fronts[0].address else "N")
        lengths = {chain: len(tree.rules(chain)) for chain in tree.chains()}
        # each protocol has its own branches where ports are told apart first
        most = max(length for chain, length in lengths.items() if chain != tree.root)
        assert most <= 16
        assert all(len(chain) <= 28 for chain in lengths)


def test_rules_and_branches_are_few_for_each_frontend() -> None:
    tree = planted([front(number) for number in range(10_000)])

    assert sum(map(len, texts(tree).values())) < 11_500


def test_trees_are_never_deeper_than_the_kernel_allows() -> None:
    crowd = [Front(f"10.{n}.7.7", "TCP", 80 + n % 2) for n in range(200)]
    tree = planted(crowd)

    assert max(node.depth for chain in tree.chains() if (node := tree.node(chain))) == DEEPEST
    assert all(find(tree, each) == target_of(each) for each in crowd)


@pytest.mark.parametrize("size", [100, 3000])
def test_one_change_concerns_a_chain_or_two(size: int) -> None:
    below = planted([front(number) for number in range(size)])
    below.settle()

    for number in range(200):
        over = Tree("IPv4", "C", below)
        over.remove(front(number % size))
        over.put(front(number % size, 443), "there")
        assert len(over.dirty | over.gone) <= 6
        assert len(over.dirty - {over.root}) >= 1


def test_the_frontend_after_the_sixteenth_divides_and_its_going_puts_together() -> None:
    tree = planted([front(number) for number in range(16)])
    assert tree.chains() == {tree.root}
    tree.settle()

    tree.put(front(99), "there")
    assert tree.dirty == tree.chains()
    assert len(tree.rules(tree.root)) == 4
    tree.settle()

    tree.remove(front(99))
    assert tree.chains() == {tree.root}
    assert len(tree.gone) == 4
    assert tree.dirty == {tree.root}


def test_who_is_not_in_the_tree_can_be_taken_out() -> None:
    tree = planted([front(1)])

    tree.remove(front(2))

    assert tree.fronts() == {front(1): target_of(front(1))}


def test_the_way_to_a_frontend_can_be_looked_at_again() -> None:
    tree = planted([front(number) for number in range(100)])
    tree.settle()

    tree.touch(front(5))

    assert tree.root in tree.dirty
    assert any(target_of(front(5)) in " ".join(tree.rules(chain)) for chain in tree.dirty)
    assert len(tree.dirty) == 3


def test_a_tree_without_frontends_is_a_root_without_rules() -> None:
    tree = Tree("IPv4", "C")

    assert tree.chains() == {"SLICEPROXY-CLUSTER"}
    assert tree.rules(tree.root) == []
    assert tree.rules("SLICEPROXY-C-2-0") == []


@pytest.mark.parametrize(
    ("family", "text", "found"),
    [
        (
            "IPv4",
            '-d 10.96.0.1/32 -p tcp -m comment --comment "default/web 0" -m tcp --dport 80 -g THERE',
            (Front("10.96.0.1", "TCP", 80), "THERE"),
        ),
        ("IPv4", "-p udp -m udp --dport 30053 -g THERE", (Front("", "UDP", 30053), "THERE")),
        ("IPv6", "-d fd00::1/128 -p sctp --dport 1 -g T", (Front("fd00::1", "SCTP", 1), "T")),
        ("IPv4", "-d 0.0.0.1/0.0.0.3 -g SLICEPROXY-C-2-1", None),
        ("IPv4", "-p tcp -m tcp --dport 28672:32767 -g SLICEPROXY-N-T7", None),
        ("IPv4", "-d 10.96.0.1/32 -p tcp -m tcp --dport 80 -j THERE", None),
        ("IPv4", "-s 10.0.0.0/8 -p tcp -m tcp --dport 80 -g THERE", None),
        ("IPv4", "-d 10.96.0.1/32 -p tcp ! --dport 80 -g THERE", None),
        ("IPv4", "-d 10.96.0.1/32 -d 10.96.0.1/32 -p tcp --dport 80 -g THERE", None),
        ("IPv4", "-p tcp --dport 80", None),
        ("IPv4", "-p tcp -g THERE", None),
        ("IPv4", "-g THERE", None),
        ("IPv4", "", None),
    ],
)
def test_a_saved_rule_is_read(family: Family, text: str, found: tuple[Front, str] | None) -> None:
    assert parse_lead(family, shlex.split(text)) == found


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", ["C", "X", "N"])
def test_the_rules_of_a_tree_read_again_are_its_frontends(family: Family, name: TreeName) -> None:
    rng = random.Random(7)
    tree = planted([random_front(rng, family, name) for _ in range(100)], family, name)

    read = [
        lead
        for chain, rules in texts(tree).items()
        for rule in rules
        if tree_of(chain) == name and (lead := parse_lead(family, shlex.split(rule)))
    ]

    assert dict(read) == tree.fronts()


@pytest.mark.parametrize(
    "chain", ["SLICEPROXY-SERVICES", "SLICEPROXY-S-AAAA", "SLICEPROXY-CANARY", "KUBE-SERVICES"]
)
def test_other_chains_are_of_no_tree(chain: str) -> None:
    assert tree_of(chain) is None
