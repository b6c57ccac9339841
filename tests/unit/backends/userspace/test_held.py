"""What is served, in words."""

from backends.userspace.belief import Observed
from backends.userspace.engine import Engine
from backends.userspace.held import look_at, look_at_rest
from backends.userspace.kernel import Facts
from backends.userspace.model import NOBODY, Admission, Listening, Place, Serving, Target
from backends.userspace.settings import ForwarderSettings
from proxy.backend import Held
from proxy.desired import Frontend
from tests.model_builders import make_key

KEY = make_key("default/web")
PLACES = [Place("IPv4", "TCP", "10.96.0.1", port) for port in (80, 81, 82)]
HOST = frozenset(["192.0.2.1"])


class AllListening(Engine):
    def __init__(self) -> None:
        super().__init__(ForwarderSettings())

    def is_listening(self, place: Place) -> bool:
        return place != PLACES[2]

    def counts(self, key: object) -> dict[str, int]:
        return {"open": 2, "accepted": 7}


def believed() -> Observed:
    observed = Observed(routes=["10.96.0.1"], host=HOST)
    serving = Serving(
        frontends=(Frontend("ClusterIP", "10.96.0.1", 80), Frontend("NodePort", None, 30080)),
        internal=(Target("10.1.0.1", 8080),),
        outside=(Target("10.1.0.2", 8080),),
        here=(Target("10.1.0.3", 8080),),
    )
    observed.serve(KEY, serving)
    admissions = (
        NOBODY,
        Admission(("192.0.2.0/24",), only_here=True, takes_node=True),
        Admission(),
    )
    for place, admission in zip(PLACES, admissions, strict=True):
        observed.listen(place, Listening(KEY, "internal", admission))
    return observed


def test_a_service_port_is_told_with_its_listeners_endpoints_and_counts() -> None:
    held = look_at(KEY, AllListening(), believed(), None)

    assert held.lines == (
        "ClusterIP 10.96.0.1 port 80",
        "NodePort node addresses port 30080",
        "from inside: 10.1.0.1:8080",
        "from outside: 10.1.0.2:8080",
        "from here: 10.1.0.3:8080",
        "listens at TCP 10.96.0.1:80 for nobody: what comes is dropped",
        "listens at TCP 10.96.0.1:81 for the node itself and for 192.0.2.0/24 and for this node and its pods",
        "2 open, 7 accepted",
    )
    assert held.differences == ("nobody listens at TCP 10.96.0.1:82",)


def test_an_address_that_is_not_local_is_a_difference() -> None:
    facts = Facts(frozenset(), frozenset(), HOST)

    held = look_at(KEY, AllListening(), believed(), facts)

    assert "10.96.0.1 is not local" in held.differences


def test_nobody_is_nothing_and_what_cannot_be_forwarded_says_so() -> None:
    sctp = make_key("default/web", protocol="SCTP")
    observed = believed()
    observed.serve(sctp, Serving(frontends=()))

    assert look_at(make_key("default/nobody"), AllListening(), observed, None) == Held(
        key=make_key("default/nobody")
    )
    assert look_at(sctp, AllListening(), observed, None).lines[0] == (
        "SCTP cannot be forwarded here: not served"
    )


def test_the_rest_is_what_no_service_port_owns() -> None:
    observed = believed()
    observed.routes["10.96.7.7"] = None
    facts = Facts(frozenset(["10.96.0.1", "10.96.9.9"]), frozenset(["10.96.0.0/16"]), frozenset())

    held = look_at_rest(observed, facts)

    assert held.lines == ("nothing at 10.96.0.0/16 but services", "10.96.9.9 is local")
    assert held.differences == (
        "10.96.9.9 is local, and nobody asked for that",
        "10.96.7.7 is not local any more",
        "believed: nothing at ",
        "believed of this host: 192.0.2.1",
    )
    assert look_at_rest(believed(), Facts(frozenset(["10.96.0.1"]), frozenset(), HOST)) == Held(
        key=None
    )
