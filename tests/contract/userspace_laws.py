"""The laws for a data plane in the process: what it serves ends with it, unless the next one is passed its sockets."""

from tests.contract.driving import adopt, run_on
from tests.contract.host import Ground, KernelHost
from tests.contract.laws import KernelLaws
from tests.data_plane import wanted
from tests.desired_strategies import many_services


class UserspaceLaws(KernelLaws):
    """What every backend in the kernel keeps, but that only addresses and sockets outlive a process."""

    def test_l7_a_process_that_ends_leaves_everything_in_place(self, ground: Ground) -> None:
        async def run(host: KernelHost) -> None:
            backend, desired = host.start(), many_services(5)
            await adopt(backend, desired)
            before = host.own()
            backend.close()

            next_one = host.start()
            assert host.own() == before
            observed = await adopt(next_one, desired)
            assert host.spent(next_one).written == 0
            assert host.behaviour(observed) == wanted(desired)

        run_on(ground, run)
