"""Credentials are read once, and again when they expired, were refused, or their files changed."""

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from proxy.errors import ApiError, ConfigError
from proxy.sources import credentials
from proxy.sources.access import Access
from proxy.sources.credentials import Credentials
from tests.unit.proxy.config.loading import settings_of

SERVER = "https://10.0.0.1:6443"


class Reader:
    """Hands out a new value at every reading, or raises what it is told to."""

    def __init__(self, files: tuple[str, ...] = (), expires_s: float = float("inf")) -> None:
        self.files = files
        self.expires_s = expires_s
        self.error: Exception | None = None
        self.count = 0

    def __call__(self) -> Access:
        self.count += 1
        if self.error is not None:
            raise self.error
        headers = {"Authorization": f"Bearer {self.count}"}
        return Access(SERVER, None, headers, expires_s=self.expires_s, files=self.files)


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_credentials_are_read_once_however_many_ask() -> None:
    reader = Reader()

    async def scenario() -> None:
        who = Credentials(reader)
        found = await asyncio.gather(*(who.get() for _ in range(5)))
        assert {id(one) for one in found} == {id(await who.get())}

    asyncio.run(scenario())
    assert reader.count == 1


def test_credentials_that_were_refused_are_read_again_once_for_all_who_were() -> None:
    reader = Reader()

    async def scenario() -> None:
        who = Credentials(reader)
        first = await who.get()
        found = await asyncio.gather(*(who.get(refused=first) for _ in range(3)))
        assert {one.headers["Authorization"] for one in found} == {"Bearer 2"}

    asyncio.run(scenario())
    assert reader.count == 2


def test_credentials_are_read_again_when_a_file_has_changed(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("a")
    reader = Reader(files=(str(token),))

    async def scenario() -> None:
        who = Credentials(reader)
        await who.get()
        await who.get()
        assert reader.count == 1
        (tmp_path / "new").write_text("a")
        (tmp_path / "new").rename(token)
        await who.get()
        assert reader.count == 2
        await who.get()
        assert reader.count == 2

    asyncio.run(scenario())


@pytest.mark.parametrize(("left_s", "count"), [(3600.0, 1), (10.0, 2), (-5.0, 2)])
def test_credentials_are_read_again_before_they_expire(left_s: float, count: int) -> None:
    reader = Reader(expires_s=time.time() + left_s)

    async def scenario() -> None:
        who = Credentials(reader)
        await who.get()
        await who.get()

    asyncio.run(scenario())
    assert reader.count == count


def test_a_mistake_at_the_start_is_the_operators() -> None:
    reader = Reader()
    reader.error = ConfigError("file: field: wrong")

    with pytest.raises(ConfigError, match="file: field: wrong"):
        asyncio.run(Credentials(reader).get())


def test_later_the_old_ones_stay_and_it_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    token = tmp_path / "token"
    token.write_text("a")
    reader = Reader(files=(str(token),))
    clock = Clock()

    async def scenario() -> None:
        who = Credentials(reader, clock)
        first = await who.get()
        token.unlink()
        reader.error = ConfigError("file: gone")
        assert await who.get() is first
        assert await who.get() is first
        reader.error = None
        clock.now_s += 10
        assert await who.get() is not first

    asyncio.run(scenario())
    assert caplog.text.count("file: gone") == 1


def test_later_it_is_an_error_of_the_server_when_there_are_no_others() -> None:
    reader = Reader()

    async def scenario() -> None:
        who = Credentials(reader)
        first = await who.get()
        reader.error = ConfigError("file: gone")
        with pytest.raises(ApiError, match="refused, and there are no others: file: gone"):
            await who.get(refused=first)

    asyncio.run(scenario())


@pytest.mark.parametrize("is_failing", [True, False])
def test_what_is_refused_or_fails_again_and_again_is_not_fetched_all_the_time(
    tmp_path: Path, is_failing: bool
) -> None:
    token = tmp_path / "token"
    token.write_text("a")
    reader = Reader(files=(str(token),), expires_s=time.time() - 5)
    clock = Clock()

    async def scenario() -> None:
        who = Credentials(reader, clock)
        access = await who.get()
        if is_failing:
            reader.error = ConfigError("the plugin failed")
        counts = []
        for change in ("", "", "time", "", "file", ""):
            clock.now_s += 10 if change == "time" else 0.5
            if change == "file":
                token.write_text("another")
            with contextlib.suppress(ApiError):
                access = await who.get(refused=access)
            counts.append(reader.count)
        assert counts == [2, 2, 3, 3, 4, 4]

    asyncio.run(scenario())


def test_a_reading_that_never_ends_does_not_keep_the_process() -> None:
    never = threading.Event()

    async def scenario() -> None:
        async with asyncio.timeout(0.05):
            await credentials.in_thread(never.wait)

    with pytest.raises(TimeoutError):
        asyncio.run(scenario())
    [thread] = [one for one in threading.enumerate() if one.name == "credentials"]
    assert thread.daemon
    never.set()
    thread.join()


def test_a_server_alone_is_asked_without_credentials() -> None:
    access = credentials.load(settings_of("--master=http://localhost:8080/"))

    assert (access.server, access.tls, access.headers) == ("http://localhost:8080", None, {})
    assert credentials.load(settings_of("--master=https://api:6443")).tls is not None


def test_a_server_that_is_no_url_is_refused() -> None:
    with pytest.raises(ConfigError, match="--master: must be like"):
        credentials.load(settings_of("--master=api"))


def test_a_kubeconfig_is_read_where_one_is_given() -> None:
    with pytest.raises(ConfigError, match="kubeconfig: /nowhere: cannot be read"):
        credentials.load(settings_of("--kubeconfig=/nowhere"))


def test_whatever_is_wrong_with_a_kubeconfig_is_the_operators(tmp_path: Path) -> None:
    plugin = {"command": "/bin/true", "apiVersion": "client.authentication.k8s.io/v1"}
    document = {
        "current-context": "it",
        "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
        "clusters": [{"name": "it", "cluster": {"server": SERVER, "extensions": 5}}],
        "users": [{"name": "it", "user": {"exec": {**plugin, "provideClusterInfo": True}}}],
    }
    file = tmp_path / "kubeconfig"
    file.write_text(json.dumps(document))

    with pytest.raises(ConfigError, match=f"{file}: cannot be used"):
        credentials.load(settings_of(f"--kubeconfig={file}"))


def test_otherwise_it_is_the_pods_service_account(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)

    with pytest.raises(ConfigError, match="KUBERNETES_SERVICE_HOST"):
        credentials.load(settings_of())


def test_the_thread_hands_on_what_is_raised() -> None:
    def fail() -> None:
        raise KeyError("x")

    async def scenario(work: Callable[[], None]) -> None:
        await credentials.in_thread(work)

    with pytest.raises(KeyError):
        asyncio.run(scenario(fail))
