"""The stock of pipes."""

import fcntl
import os
import resource

import pytest

from backends.userspace import pipes
from backends.userspace.pipes import Pipes


@pytest.fixture
def stock() -> Pipes:
    return Pipes()


def test_a_pipe_is_large_and_does_not_block(stock: Pipes) -> None:
    pipe = stock.take()
    assert pipe is not None

    assert fcntl.fcntl(pipe.into, fcntl.F_GETPIPE_SZ) == pipes.SIZE
    with pytest.raises(BlockingIOError):
        os.read(pipe.out_of, 1)
    stock.destroy(pipe)


def test_what_is_given_back_is_used_again(stock: Pipes) -> None:
    pipe = stock.take()
    assert pipe is not None
    stock.give_back(pipe)

    assert stock.take() == pipe
    stock.destroy(pipe)


def test_only_some_are_kept(stock: Pipes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipes, "IDLE", 1)
    first, second = stock.take(), stock.take()
    assert first is not None
    assert second is not None
    stock.give_back(first)
    stock.give_back(second)

    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(second.into)
    os.fstat(first.into)
    stock.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(first.into)


def test_there_are_no_more_than_wanted() -> None:
    stock = Pipes(1)
    pipe = stock.take()
    assert pipe is not None
    assert stock.take() is None

    stock.destroy(pipe)

    assert stock.take() is not None
    stock.close()


def test_without_files_there_is_none(stock: Pipes) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        found = stock.take()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    assert found is None
