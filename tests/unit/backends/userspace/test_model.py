"""Plans in words."""

from backends.userspace.model import Listening, Place, Serving, Target, UserspacePlan
from proxy.desired import Frontend
from tests.model_builders import make_key

KEY = make_key("default/web")
SERVING = Serving(
    frontends=(
        Frontend("ClusterIP", "10.96.0.1", 80),
        Frontend("ExternalIP", "10.96.0.1", 81),
        Frontend("NodePort", None, 30080),
    ),
    internal=(Target("10.1.0.1", 8080),),
)
PLACE = Place("IPv6", "TCP", "fd00::1", 80)


def test_a_plan_without_operations_is_false() -> None:
    assert not UserspacePlan()


def test_operations_are_told_in_order_and_for_whom() -> None:
    plan = UserspacePlan(
        routes=(("10.96.0.1", KEY), ("10.96.0.0/16", None)),
        serving=((KEY, SERVING),),
        listening=((PLACE, Listening(KEY, "internal")),),
        closing=((PLACE, KEY),),
        forgotten=(KEY,),
        unrouted=(("10.96.0.2", None),),
    )

    assert bool(plan)
    assert plan.describe() == [
        f"make 10.96.0.1 local  # {KEY}",
        "let 10.96.0.0/16 lead nowhere",
        f"serve inside: 10.1.0.1:8080  # {KEY}",
        f"listen at TCP [fd00::1]:80  # {KEY}",
        f"close TCP [fd00::1]:80  # {KEY}",
        f"forget  # {KEY}",
        "give up 10.96.0.2",
    ]
    assert plan.size == 7


def test_addresses_are_named_once_and_node_ports_have_none() -> None:
    assert SERVING.addresses == ("10.96.0.1",)
    assert SERVING.node_ports == (30080,)
