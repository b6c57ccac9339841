"""Operations as messages to IPVS."""

import pytest

from backends.ipvs.messages import pack_operation
from backends.ipvs.model import Operation, Verb
from backends.kernel import ipvs_messages
from backends.kernel.ipvs_objects import Destination, ServerId, VirtualServer
from tests.model_builders import make_key

WEB = make_key("default/web")
SERVER = VirtualServer(ServerId("IPv4", "TCP", "10.96.0.10", 80), "rr")
PLACE = Destination("10.1.0.1", 8080, weight=3)


@pytest.mark.parametrize(
    ("verb", "spec", "expected"),
    [
        ("add server", SERVER, ipvs_messages.new_server(SERVER)),
        ("set server", SERVER, ipvs_messages.set_server(SERVER)),
        ("del server", None, ipvs_messages.del_server(SERVER.id)),
        ("add destination", PLACE, ipvs_messages.new_destination(SERVER.id, PLACE)),
        ("set destination", PLACE, ipvs_messages.set_destination(SERVER.id, PLACE)),
        (
            "del destination",
            PLACE,
            ipvs_messages.del_destination(SERVER.id, PLACE.address, PLACE.port),
        ),
    ],
)
def test_an_operation_is_the_message_its_verb_says(
    verb: Verb, spec: VirtualServer | Destination | None, expected: bytes
) -> None:
    assert pack_operation(Operation(verb, SERVER.id, spec, WEB)) == expected


def test_what_does_not_go_together_is_no_message() -> None:
    with pytest.raises(ValueError, match="add destination with None"):
        pack_operation(Operation("add destination", SERVER.id, None, WEB))
