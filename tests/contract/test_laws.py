"""Every backend keeps the laws, on its fake. That the kernel sees it the same way is e2e/test_contract.py."""

import pytest

import backends
from backends.kernel.xtables_text import Flavour
from tests.contract.host import Ground
from tests.contract.iptables_host import FakeIptablesGround
from tests.contract.iptables_laws import IptablesLaws
from tests.contract.ipvs_host import FakeIpvsGround
from tests.contract.ipvs_xt_host import FakeXtIpvsGround
from tests.contract.laws import KernelLaws, Laws
from tests.contract.nftables_host import FakeNftablesGround
from tests.contract.null_host import NullGround
from tests.contract.userspace_host import FakeUserspaceGround
from tests.contract.userspace_laws import UserspaceLaws


class TestNull(Laws):
    @pytest.fixture
    def ground(self) -> Ground:
        return NullGround()


class TestIpvs(KernelLaws):
    @pytest.fixture
    def ground(self) -> Ground:
        return FakeIpvsGround()


class TestIpvsBesideIptables(KernelLaws):
    """With the side rules for kernels without nftables; the flavours differ in what they say when they refuse a rule."""

    # plans know nothing of what is beside
    test_l1_the_order_in_which_service_ports_are_planned_makes_no_difference = None  # type: ignore[assignment]
    test_l6_planning_one_change_looks_at_as_much_among_ten_thousand_services_as_among_a_hundred = (
        None  # type: ignore[assignment]
    )

    @pytest.fixture
    def ground(self) -> Ground:
        return FakeXtIpvsGround(Flavour.LEGACY)


@pytest.fixture(params=Flavour)
def iptables_ground(request: pytest.FixtureRequest) -> Ground:
    return FakeIptablesGround(request.param)


class TestIptables(IptablesLaws):
    @pytest.fixture
    def ground(self, iptables_ground: Ground) -> Ground:
        return iptables_ground


class TestNftables(KernelLaws):
    @pytest.fixture
    def ground(self) -> Ground:
        return FakeNftablesGround()


class TestUserspace(UserspaceLaws):
    @pytest.fixture
    def ground(self) -> Ground:
        return FakeUserspaceGround()


def test_every_backend_is_tested_here() -> None:
    tested = {name.removeprefix("Test").lower() for name in globals() if name.startswith("Test")}

    assert tested == {*backends.FACTORIES, "ipvsbesideiptables"}
