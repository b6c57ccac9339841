"""docs/metrics.md has every metric: its tables are rendered from what is collected, and compared.

After a change, `python -m tests.unit.test_metrics_docs` writes the tables anew.
"""

import contextlib
import re
from collections.abc import Iterable, Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest
from prometheus_client.core import Metric

from proxy import app, metrics, rejections
from proxy.config.modes import LADDER
from proxy.health import CHECKS
from proxy.listeners import Listeners
from proxy.model import Rejected
from proxy.sources.events import KINDS, OPTIONAL_KINDS, Problems, WatchReport
from tests.fakes.nft import NftKernel
from tests.unit.proxy.config.loading import settings_of
from tests.unit.proxy.metrics.measured import TIMEOUT_S, Measured

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"

SECTIONS = {
    "kubeproxy": ("kubeproxy_*",),
    "slis": ("kubernetes_*",),
    "ipvs": ("sliceproxy_ipvs_*",),
    "nftables": ("sliceproxy_nftables_*",),
    "userspace": ("sliceproxy_userspace_*",),
    "iptables": ("sliceproxy_iptables_*",),
    "sliceproxy": ("sliceproxy_*",),
    "process": ("process_*", "python_*"),
}
"""Which families stand in which table: in the first that has a pattern for them."""

OPEN = {
    ("sliceproxy_build_info", "version"),
    ("sliceproxy_rejected_objects", "kind"),
    ("sliceproxy_rejected_objects", "reason"),
}
"""Labels of which one collection does not show all values."""

MORE_VALUES = [
    ("kind", "`sliceproxy_rejected_objects`", sorted({*rejections._KINDS, rejections._OTHER})),
    ("reason", "`sliceproxy_rejected_objects`", sorted(rejections.CLASSES)),
]


def _name(family: Metric) -> str:
    """Return the name as it is scraped: families of counters are kept without its end."""
    return f"{family.name}_total" if family.type == "counter" else family.name


def _type(family: Metric) -> str:
    return "untyped" if family.type == "unknown" else family.type


def _labels(family: Metric) -> dict[str, list[str]]:
    """Return labels and, in the order of the samples, their values. `le` is what every histogram has."""
    found: dict[str, dict[str, None]] = {}
    for sample in family.samples:
        for label, value in sample.labels.items():
            if label != "le":
                found.setdefault(label, {})[value] = None
    return {label: list(values) for label, values in found.items()}


def _watched(measured: Measured) -> list[WatchReport]:
    return [
        WatchReport(
            kind=kind,
            phase="watching",
            since_s=measured.now_s,
            heard_s=measured.now_s,
            resource_version="1",
            objects=0,
            lists=0,
            watches=0,
            failures=0,
            retry_s=0.0,
            error="",
            errors={},
        )
        for kind in (*KINDS, *OPTIONAL_KINDS)
    ]


def _collected(mode: str) -> Iterator[Metric]:
    """Yield all there is in one mode, of a proxy that watches an API server and knows an object it cannot use."""
    measured = Measured()
    measured.work()
    measured.reports = _watched(measured)
    rejected = Rejected(kind="Service", name="default/web", field="spec.ports", reason="is bad")
    measured.reconciler.cache.apply([Problems("Service default/web", (rejected,))], 0.0)
    with NftKernel().entered():
        backend = app.make_backend(mode, settings_of(), Listeners())
    with contextlib.closing(backend):
        measured.reconciler.backend = backend
        yield from measured.registry(mode).collect()
        yield from metrics.indicators(measured.reconciler, TIMEOUT_S).collect()


def _everything() -> dict[str, Metric]:
    """Return the families of all modes by name. One that is there in several has the same in each but values of labels."""
    found: dict[str, Metric] = {}
    for mode in LADDER:
        for family in _collected(mode):
            name = _name(family)
            known = found.setdefault(name, family)
            if known is family:
                continue
            assert (known.type, known.documentation) == (family.type, family.documentation), name
            assert set(_labels(known)) == set(_labels(family)), name
            known.samples += [each for each in family.samples if each not in known.samples]
    return found


FAMILIES = _everything()


def _section_of(name: str) -> str:
    for section, patterns in SECTIONS.items():
        if any(fnmatch(name, pattern) for pattern in patterns):
            return section
    raise AssertionError(f"{name} stands in no table of {PAGE}")


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    return "\n".join([_row(*head), _row(*("---" for _ in head)), *(_row(*row) for row in rows)])


def _family_rows(section: str) -> list[tuple[str, ...]]:
    return [
        (
            f"`{name}`",
            _type(family),
            ", ".join(f"`{label}`" for label in _labels(family)),
            family.documentation,
        )
        for name, family in FAMILIES.items()
        if _section_of(name) == section
    ]


def _shared(names: list[str]) -> str:
    """Return what all names begin with."""
    first, last = min(names), max(names)
    return next(first[:end] for end in range(len(first), -1, -1) if last.startswith(first[:end]))


def _value_rows() -> list[tuple[str, ...]]:
    """Return a row for each label and what it may be, with the families that have it; of more than three what they share."""
    named: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for name, family in FAMILIES.items():
        for label, values in _labels(family).items():
            if _section_of(name) != "process" and (name, label) not in OPEN:
                named.setdefault((label, tuple(values)), []).append(name)
    rows = [
        (
            label,
            ", ".join(f"`{name}`" for name in names)
            if len(names) <= 3
            else f"`{_shared(names)}*`",
            list(values),
        )
        for (label, values), names in named.items()
    ]
    return [
        (f"`{label}`", names, ", ".join(f"`{value}`" for value in values))
        for label, names, values in [*rows, *MORE_VALUES]
    ]


TABLES = {
    **{
        section: _table(("Metric", "Type", "Labels", "Meaning"), _family_rows(section))
        for section in SECTIONS
    },
    "values": _table(("Label", "Of", "Values"), _value_rows()),
}


def _section(name: str) -> re.Pattern[str]:
    return re.compile(
        rf"(<!-- {name}: rendered from the code -->\n)(.*?)(\n<!-- end -->)", re.DOTALL
    )


@pytest.mark.parametrize("name", TABLES)
def test_a_table_of_the_page_is_what_is_collected(name: str) -> None:
    found = _section(name).search(PAGE.read_text())

    assert found is not None
    assert found.group(2) == TABLES[name], "run: python -m tests.unit.test_metrics_docs"


@pytest.mark.parametrize("name", TABLES)
def test_a_table_has_as_many_cells_in_every_row(name: str) -> None:
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in TABLES[name].splitlines()}) == 1


def test_every_metric_has_one_row() -> None:
    rows = re.findall(
        r"^\| `((?:kube|sliceproxy|process|python)\w*_\w+)` \|", PAGE.read_text(), re.MULTILINE
    )

    assert sorted(rows) == sorted(FAMILIES)


def test_every_mode_is_there() -> None:
    assert all(any(f"sliceproxy_{mode}_" in name for name in FAMILIES) for mode in LADDER)


def test_what_the_page_speaks_of_is_there_but_for_what_it_calls_absent() -> None:
    text = re.sub(r"```yaml\n.*?```\n", "", PAGE.read_text(), flags=re.DOTALL)
    [absent] = re.findall(r"<!-- absent -->\n(.*?)<!-- end -->", text, re.DOTALL)
    rest = text.replace(absent, "")
    names = re.compile(r"\b(?:kubeproxy|kubernetes|sliceproxy)_[a-z_]*[a-z]\b(?![*(])")

    missing = [
        name
        for name in names.findall(rest)
        if re.sub("_(bucket|count|sum)$", "", name) not in FAMILIES and name not in FAMILIES
    ]
    assert missing == []
    assert set(names.findall(absent)).isdisjoint(FAMILIES)


def test_each_code_of_what_is_degraded_is_explained() -> None:
    [table] = re.findall(r"<!-- codes -->\n(.*?)<!-- end -->", PAGE.read_text(), re.DOTALL)

    assert re.findall(r"^\| `([a-z-]+)` \|", table, re.MULTILINE) == list(CHECKS)


def write() -> None:
    """Render the tables of the page anew."""
    text = PAGE.read_text()
    for name, table in TABLES.items():
        before, start, rest = text.partition(f"<!-- {name}: rendered from the code -->\n")
        _, end, after = rest.partition("\n<!-- end -->")
        text = before + start + table + end + after
    PAGE.write_text(text)


if __name__ == "__main__":
    write()
