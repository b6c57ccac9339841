"""A fake of nf_tables for what needs a kernel, and what an administrator does to it."""

from collections.abc import Iterator

import pytest

from backends.kernel.nft import Nft
from tests.fakes.nft import NftKernel


@pytest.fixture
def nf_tables() -> Iterator[NftKernel]:
    """Whatever opens a socket talks to this kernel."""
    fake = NftKernel()
    with fake.entered():
        yield fake


@pytest.fixture
def nft(nf_tables: NftKernel) -> Iterator[Nft]:
    with Nft() as door:
        yield door
