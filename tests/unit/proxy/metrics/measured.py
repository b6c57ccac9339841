"""A daemon whose metrics are looked at: the state is made by hand, and what is read is what Prometheus would read."""

import time
from collections.abc import Iterable, Sequence

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from backends.null.backend import NullBackend
from proxy import metrics
from proxy.cache import Cache
from proxy.conntrack_sweeper import Sweeper
from proxy.desired import DesiredState
from proxy.events_recorder import Recorder
from proxy.meter import Meter
from proxy.model import NodeInfo
from proxy.reconciler import Reconciler
from proxy.schedule import Schedule
from proxy.sources.events import KINDS, Event, Synced, Upsert, WatchReport
from proxy.verifier import Verifier
from tests.fakes.conntrack import FakeFlows
from tests.model_builders import make_node

TIMEOUT_S = 60.0
Series = dict[str, float]


class Measured:
    """Reconciler, verifier and meter, with reports of a source that a test may replace."""

    def __init__(self, events: Iterable[Event] = ()) -> None:
        cache = Cache(NodeInfo(name="n1"))
        self.now_s = time.monotonic()
        self.backend = NullBackend()
        self.reconciler = Reconciler(
            cache, DesiredState(), self.backend, Schedule(now_s=self.now_s)
        )
        self.verifier, self.meter = Verifier(self.reconciler), Meter()
        self.sweeper = Sweeper(self.reconciler, FakeFlows())
        self.reconciler.on_round = self.meter.heard
        self.recorder = Recorder("n1")
        self.reports: Sequence[WatchReport] = ()
        cache.apply([*events, Upsert(make_node()), *map(Synced, KINDS)], self.now_s)

    def report(self) -> Sequence[WatchReport]:
        return self.reports

    def work(self) -> None:
        """Run a round, without an event loop."""
        if not self.reconciler.is_synced.is_set():
            self.reconciler.progress.started(self.now_s)
            self.reconciler.progress.opened(self.now_s)
        turns = self.reconciler._round()
        try:
            while True:
                turns.send(None)
        except StopIteration:
            return

    def registry(self, mode: str = "nftables") -> CollectorRegistry:
        self.backend.name = mode
        return metrics.everything(
            self.reconciler,
            self.verifier,
            self,
            self.meter,
            timeout_s=TIMEOUT_S,
            sweeper=self.sweeper,
            recorder=self.recorder,
        )

    def series(self, name: str = "", mode: str = "nftables") -> Series:
        """The series whose names begin so, as `name{label="value"}`."""
        return series(self.registry(mode), name)


def series(registry: CollectorRegistry, name: str = "") -> Series:
    """What Prometheus reads, by name and labels in the order of the alphabet."""
    text = generate_latest(registry).decode()
    return {
        _written(sample.name, sample.labels): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith(name)
    }


def _written(name: str, labels: dict[str, str]) -> str:
    inside = ",".join(f'{label}="{value}"' for label, value in sorted(labels.items()))
    return f"{name}{{{inside}}}" if inside else name
