"""Every backend keeps the laws, on its fake. That the kernel sees it the same way is e2e/test_contract.py."""

import pytest

import backends
from tests.contract.host import Ground
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


class TestNftables(KernelLaws):
    @pytest.fixture
    def ground(self) -> Ground:
        return FakeNftablesGround()


def test_every_backend_is_tested_here() -> None:
    tested = {name.removeprefix("Test").lower() for name in globals() if name.startswith("Test")}

    assert tested == set(backends.FACTORIES)
