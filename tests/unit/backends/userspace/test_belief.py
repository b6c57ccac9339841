"""What is believed, and who needs what."""

from backends.userspace.belief import Observed
from backends.userspace.model import Listening, Place, Serving
from proxy.desired import Frontend
from tests.model_builders import make_key

KEY, OTHER = make_key("default/web"), make_key("default/other")
SERVING = Serving(
    frontends=(Frontend("ClusterIP", "10.96.0.1", 80), Frontend("NodePort", None, 30080))
)
PLACE = Place("IPv4", "TCP", "10.96.0.1", 80)


def test_an_address_is_held_by_all_who_need_it() -> None:
    observed = Observed()
    observed.serve(KEY, SERVING)
    observed.serve(OTHER, SERVING)
    observed.serve(KEY, None)

    assert observed.holders == {"10.96.0.1": {OTHER: None}}
    assert list(observed.node_ports) == [OTHER]
    assert observed.by_node_port == {30080: {OTHER: None}}
    observed.serve(OTHER, Serving(frontends=()))
    assert (observed.holders, observed.node_ports, observed.by_node_port) == ({}, {}, {})


def test_a_place_is_that_of_whoever_listens_there_last() -> None:
    observed = Observed()
    observed.listen(PLACE, Listening(KEY, "internal"))
    observed.listen(PLACE, Listening(OTHER, "internal"))

    assert observed.places == {OTHER: {PLACE: None}}
    observed.listen(PLACE, None)
    observed.listen(PLACE, None)
    assert (observed.places, observed.listening) == ({}, {})
