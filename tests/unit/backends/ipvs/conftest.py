"""What the tests of mode ipvs start from."""

from collections.abc import Iterator

import pytest

from tests.unit.backends.ipvs.driving import Kernel


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    """Whatever opens a socket talks to these fakes."""
    kernel = Kernel()
    with kernel.entered():
        yield kernel
