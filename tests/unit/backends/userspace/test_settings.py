"""What follows from the daemon's settings."""

from msgspec import structs

from backends.userspace.settings import forwarder_settings
from tests.unit.proxy.config.loading import settings_of


def test_the_own_section_of_the_configuration_counts() -> None:
    settings = settings_of()
    own = structs.replace(
        settings.userspace,
        scheduler="lc",
        connect_timeout_s=1.5,
        tcp_idle_timeout_s=60.0,
        udp_idle_timeout_s=7.0,
        drain_timeout_s=9.0,
        uses_proxy_protocol=True,
    )

    found = forwarder_settings(structs.replace(settings, userspace=own))

    assert found.is_least
    assert (found.connect_s, found.idle_s, found.udp_s, found.drain_s) == (1.5, 60.0, 7.0, 9.0)
    assert found.sends_proxy_header


def test_pods_here_are_told_as_configured() -> None:
    settings = structs.replace(
        settings_of(),
        detect_local_mode="InterfaceNamePrefix",
        interface_name_prefix="veth",
        bridge_interface="br0",
    )

    by_prefix = forwarder_settings(settings).detector
    by_bridge = forwarder_settings(
        structs.replace(settings, detect_local_mode="BridgeInterface")
    ).detector

    assert (by_prefix.interface, by_bridge.interface) == ("veth", "br0")


def test_nodes_begin_their_turns_at_different_endpoints() -> None:
    settings = settings_of()
    offsets = {
        forwarder_settings(structs.replace(settings, node_name=name)).offset
        for name in ("a", "b", "c")
    }

    assert len(offsets) == 3


def test_node_ports_are_at_localhost_where_that_is_wanted_and_open() -> None:
    settings = settings_of()
    off = structs.replace(settings, localhost_node_ports=False)
    ranges = structs.replace(settings, node_port_addresses=("127.0.0.0/8", "fd00::/8"))

    assert forwarder_settings(settings).localhost == ("IPv4", "IPv6")
    assert forwarder_settings(off).localhost == ()
    assert forwarder_settings(ranges).localhost == ("IPv4",)
