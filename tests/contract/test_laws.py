"""Every backend keeps the laws, on its fake. That the kernel sees it the same way is e2e/test_contract.py."""

import pytest

import backends
from backends.kernel.xtables_text import Flavour
from tests.contract.host import Ground
from tests.contract.iptables_host import FakeIptablesGround
from tests.contract.iptables_laws import IptablesLaws
from tests.contract.ipvs_host import FakeIpvsGround
from tests.contract.laws import KernelLaws, Laws
from tests.contract.nftables_host import FakeNftablesGround
from tests.contract.null_host import NullGround


class TestNull(Laws):
    @pytest.fixture
    def ground(self) -> Ground:
        return NullGround()


class TestIpvs(KernelLaws):
    @pytest.fixture
    def ground(self) -> Ground:
        return FakeIpvsGround()


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


def test_every_backend_is_tested_here() -> None:
    tested = {name.removeprefix("Test").lower() for name in globals() if name.startswith("Test")}

    assert tested == set(backends.FACTORIES)
