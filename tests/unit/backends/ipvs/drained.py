"""A service with two endpoints, of which one or both go while they have connections, and a clock."""

from backends.kernel.ipvs_objects import Load, ServerId
from tests.desired_strategies import make_desired

SERVER = ServerId("IPv4", "TCP", "10.96.0.10", 80)
A, B = "10.1.0.1:80", "10.1.0.2:80"
IDLE, BUSY = Load(0, 0, 0), Load(3, 0, 0)
BOTH, ONLY_B, NONE = (
    make_desired("default/web", A, B),
    make_desired("default/web", B),
    make_desired(),
)


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s
