"""What holds something open until `close`, and works as a context manager."""

from abc import ABC, abstractmethod
from typing import Self


class Closing(ABC):
    """Something with a `close` that comes at the end of a `with` at the latest."""

    @abstractmethod
    def close(self) -> None:
        """Give back what is open. Not for use afterwards."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
