"""Operations as messages to IPVS. Pure."""

from backends.ipvs.model import Operation
from backends.kernel import ipvs_messages
from backends.kernel.ipvs_objects import Destination, VirtualServer


def pack_operation(operation: Operation) -> bytes:
    """Pack a message to IPVS."""
    server, spec = operation.server, operation.spec
    match operation.verb, spec:
        case "add server", VirtualServer():
            return ipvs_messages.new_server(spec)
        case "set server", VirtualServer():
            return ipvs_messages.set_server(spec)
        case "add destination", Destination():
            return ipvs_messages.new_destination(server, spec)
        case "set destination", Destination():
            return ipvs_messages.set_destination(server, spec)
        case "del destination", Destination():
            return ipvs_messages.del_destination(server, spec.address, spec.port)
        case "del server", None:
            return ipvs_messages.del_server(server)
        case _:
            raise ValueError(f"{operation.verb} with {spec}")
