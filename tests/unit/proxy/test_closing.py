"""What holds something open until `close`."""

import pytest

from proxy.closing import Closing


class Door(Closing):
    is_open = True

    def close(self) -> None:
        self.is_open = False


def test_it_is_open_inside_and_closed_after_an_error() -> None:
    def fail(door: Door) -> None:
        with door as inside:
            assert inside is door
            assert door.is_open
            raise KeyError

    door = Door()
    with pytest.raises(KeyError):
        fail(door)
    assert not door.is_open
