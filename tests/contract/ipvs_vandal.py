"""What a crash, an older version or an administrator may have done to virtual servers, addresses and side rules of ours."""

import random
from collections.abc import Callable
from typing import Final, NamedTuple

from backends.ipvs.layout import Layout
from backends.ipvs.model import ALLOWED, BOUND, DEVICE, TABLE
from backends.kernel import ipvs_messages, nft_elements, nft_messages
from backends.kernel.ipvs import Ipvs
from backends.kernel.ipvs_objects import Destination, ServerId, VirtualServer, marked
from backends.kernel.links import Links, is_ours
from backends.kernel.nft import Nft
from backends.kernel.nft_elements import Element
from backends.kernel.nft_node import SERVICE_CIDRS
from backends.kernel.nft_numbers import NFPROTO_IPV4, NFPROTO_IPV6
from proxy.model import FAMILIES, Family
from proxy.netlink.codec import Request

NUMBERS: Final = (NFPROTO_IPV4, NFPROTO_IPV6)


class Scene(NamedTuple):
    """What the vandal works with."""

    nft: Nft
    ipvs: Ipvs
    links: Links
    layout: Layout
    rng: random.Random

    def servers(self) -> list[ServerId]:
        return sorted(
            [
                server.id
                for server in self.ipvs.list_servers()
                if (server.id.mark and self.layout.marks.number(server.id.mark) is not None)
                or server.id.address in self.bound()
            ],
            key=str,
        )

    def device(self) -> int | None:
        link = self.links.find(DEVICE)
        return link.ifindex if link is not None and is_ours(link) else None

    def bound(self) -> list[str]:
        device = self.device()
        return sorted([each.address for each in self.links.addresses() if each.ifindex == device])

    def commit(self, requests: list[Request]) -> None:
        if requests:
            self.nft.commit(requests)


Act = Callable[[Scene], None]


def vandalise(scene: Scene, acts: tuple[Act, ...]) -> None:
    """Do some of that. What the kernel would not have is left out by the acts themselves."""
    for act in scene.rng.sample(acts, min(len(acts), scene.rng.randint(1, 3))):
        act(scene)


def lose_elements(scene: Scene) -> None:
    for number, name in _sets(scene):
        keys = _keys(scene, number, name)
        gone = scene.rng.sample(keys, min(len(keys), 2))
        packed = [nft_elements.pack_key_element(key) for key in gone]
        scene.commit(nft_elements.del_elements(number, TABLE, name, packed))


def change_marks(scene: Scene) -> None:
    for number, name in _sets(scene, are_maps=True):
        for key in _keys(scene, number, name)[:2]:
            packed = nft_elements.pack_element(Element(key, scene.rng.randbytes(4)))
            scene.commit(
                [
                    *nft_elements.del_elements(
                        number, TABLE, name, [nft_elements.pack_key_element(key)]
                    ),
                    *nft_elements.new_elements(number, TABLE, name, [packed]),
                ]
            )


def add_elements(scene: Scene) -> None:
    for number, name in _sets(scene):
        found = scene.nft.find_set(number, TABLE, name)
        if found is None or found.data_type is not None:
            continue
        key = scene.rng.randbytes(found.key_length)
        packed = nft_elements.pack_key_element(key)
        scene.commit(nft_elements.new_elements(number, TABLE, name, [packed]))


def flush_chains(scene: Scene) -> None:
    for number in _tables(scene):
        chains = [chain.name for chain in scene.nft.list_chains(number, TABLE)]
        scene.commit([nft_messages.flush_chain(number, TABLE, name) for name in chains])


def delete_table(scene: Scene) -> None:
    scene.commit([nft_messages.del_table(number, TABLE) for number in _tables(scene)])


def make_dormant(scene: Scene) -> None:
    scene.commit(
        [nft_messages.new_table(number, TABLE, is_dormant=True) for number in _tables(scene)]
    )


def misuse_names(scene: Scene) -> None:
    for number in _tables(scene):
        scene.commit(
            [
                nft_messages.del_table(number, TABLE),
                nft_messages.new_table(number, TABLE),
                nft_messages.new_set(number, TABLE, BOUND, key_type=7, key_length=8),
                nft_messages.new_chain(number, TABLE, "stranger"),
            ]
        )


def add_strangers(scene: Scene) -> None:
    for number in _tables(scene):
        scene.commit(
            [
                nft_messages.new_chain(number, TABLE, "stranger"),
                nft_messages.new_set(number, TABLE, "crowd", key_type=7, key_length=4),
            ]
        )


def lose_servers(scene: Scene) -> None:
    servers = scene.servers()
    gone = scene.rng.sample(servers, min(len(servers), 2))
    scene.ipvs.carry_out([ipvs_messages.del_server(server) for server in gone])


def change_servers(scene: Scene) -> None:
    for server in scene.servers()[:2]:
        changed = VirtualServer(server, "lc", 0x1, scene.rng.randint(1, 999))
        scene.ipvs.carry_out([ipvs_messages.set_server(changed)])


def lose_destinations(scene: Scene) -> None:
    for server in scene.servers()[:3]:
        for destination, _ in scene.ipvs.list_destinations(server)[:1]:
            message = ipvs_messages.del_destination(server, destination.address, destination.port)
            scene.ipvs.carry_out([message])


def change_destinations(scene: Scene) -> None:
    for server in scene.servers()[:3]:
        for destination, _ in scene.ipvs.list_destinations(server)[:1]:
            weight, forwarding = scene.rng.choice([(0, 0), (7, 0), (1, 3)])
            changed = destination._replace(weight=weight, forwarding=forwarding)
            scene.ipvs.carry_out([ipvs_messages.set_destination(server, changed)])


def add_destinations(scene: Scene) -> None:
    for server in scene.servers()[:3]:
        address = "192.0.2.77" if server.family == "IPv4" else "2001:db8::77"
        scene.ipvs.carry_out([ipvs_messages.new_destination(server, Destination(address, 77))])


def add_servers(scene: Scene) -> None:
    """In our range of marks, and at an address of our device."""
    number = scene.rng.randint(1, 1000)
    ids = [marked(family, scene.layout.marks.mark(number, "here")) for family in FAMILIES]
    for address in scene.bound()[:1]:
        family: Family = "IPv6" if ":" in address else "IPv4"
        ids.append(ServerId(family, "TCP", address, 7))
    servers = [VirtualServer(each, "rr") for each in ids]
    scene.ipvs.carry_out([ipvs_messages.new_server(server) for server in servers])


def lose_addresses(scene: Scene) -> None:
    device, bound = scene.device(), scene.bound()
    if device is not None:
        scene.links.unbind(device, scene.rng.sample(bound, min(len(bound), 2)))


def add_addresses(scene: Scene) -> None:
    device = scene.device()
    if device is not None:
        scene.links.bind(device, ["10.99.99.99", "fd00:99::99"])


def lose_device(scene: Scene) -> None:
    scene.links.remove_dummy(DEVICE)


ACTS_ON_SERVERS: Final[tuple[Act, ...]] = (
    lose_servers, change_servers, lose_destinations, change_destinations, add_destinations, add_servers,
    lose_addresses, add_addresses, lose_device,
)  # fmt: skip
ACTS: Final[tuple[Act, ...]] = (
    lose_elements, change_marks, add_elements, flush_chains, delete_table, make_dormant, misuse_names, add_strangers,
    *ACTS_ON_SERVERS,
)  # fmt: skip


def _tables(scene: Scene) -> list[int]:
    return [number for number in NUMBERS if scene.nft.find_table(number, TABLE) is not None]


def _sets(scene: Scene, *, are_maps: bool = False) -> list[tuple[int, str]]:
    """Some of our sets that hold no ranges."""
    found = [
        (number, each.name)
        for number in _tables(scene)
        for each in scene.nft.list_sets(number, TABLE)
        if each.name not in (ALLOWED, SERVICE_CIDRS)
        and (each.data_type is not None or not are_maps)
    ]
    return scene.rng.sample(sorted(found), min(len(found), 4))


def _keys(scene: Scene, number: int, name: str) -> list[bytes]:
    return sorted([k for part in scene.nft.list_elements(number, TABLE, name) for k, _ in part])
