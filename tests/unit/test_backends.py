"""The registry of data planes."""

from pathlib import Path

import pytest

import backends
from proxy.config.modes import LADDER
from proxy.errors import Unsupported
from tests.fakes.nft import NftKernel
from tests.unit.proxy.config.loading import settings_of

PACKAGES = {path.parent.name for path in Path(backends.__file__).parent.glob("*/backend.py")}


def test_every_data_plane_is_registered() -> None:
    assert set(backends.FACTORIES) == PACKAGES


@pytest.mark.parametrize("name", sorted(PACKAGES))
def test_a_data_plane_is_made_by_its_name(name: str) -> None:
    with NftKernel().entered():
        backend = backends.create(name, settings_of())

    assert backend.name == name
    backend.close()


def test_a_mode_without_a_data_plane_is_unsupported_and_the_others_are_named() -> None:
    with pytest.raises(Unsupported, match=r"mode carrier-pigeon .* available: nftables") as caught:
        backends.create("carrier-pigeon", settings_of())

    assert all(name in str(caught.value) for name in PACKAGES)


def test_what_an_empty_mode_tries_is_registered() -> None:
    assert set(backends.AUTOMATIC) <= set(backends.FACTORIES)


def test_what_an_empty_mode_tries_is_what_metrics_tell_of() -> None:
    assert backends.AUTOMATIC == LADDER


def test_after_a_change_of_mode_all_others_go_that_outlive_their_process() -> None:
    assert set(backends.LASTING) == set(backends.FACTORIES) - {"null"}
    for mode in backends.LASTING:
        assert {mode, *backends.others(mode)} == set(backends.LASTING)
    assert backends.others("null") == ()
