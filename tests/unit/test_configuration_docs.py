"""docs/configuration.md says what the code does: its tables are rendered from the code and compared.

After a change, `python -m tests.unit.test_configuration_docs` writes the tables anew.
"""

import re
from pathlib import Path

import pytest

from proxy.config import defaults, duration, fields, flags, gates, kubeproxy, own

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    return "\n".join([_row(*head), _row(*("---" for _ in head)), *(_row(*row) for row in rows)])


def _default(value: object) -> str:
    if isinstance(value, bool):
        return "`true`" if value else "`false`"
    text = (
        duration.render(value)
        if isinstance(value, duration.Duration)
        else flags.render_value(value)
    )
    return f"`{text}`" if text else ""


def _field_rows() -> list[tuple[str, ...]]:
    filled = defaults.fill(kubeproxy.KubeProxyConfiguration())
    rows: list[tuple[str, ...]] = []
    for path in kubeproxy.leaves():
        used = fields.USED.get(path)
        text = used.meaning if used else f"*not applicable*: {fields.NOT_APPLICABLE[path].reason}"
        rows.append((f"`{path}`", _default(kubeproxy.get(filled, path)), text))
    return rows


def _own_rows() -> list[tuple[str, ...]]:
    plain = own.SliceProxyConfiguration()
    return [
        (f"`{path}`", _default(kubeproxy.get(plain, path)), meaning)
        for path, (_, meaning) in own.FIELDS.items()
    ]


def _gate_rows() -> list[tuple[str, ...]]:
    read = [
        (f"`{gate}`", _default(gates.DEFAULTS[gate]), text)
        for gate, text in gates.MEANINGS.items()
    ]
    settled = [(f"`{gate}`", "", f"*no effect*: {text}") for gate, text in gates.SETTLED.items()]
    return [*read, *settled]


def _flag_rows() -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for flag in flags.FLAGS:
        text = (
            flag.help if flag.has_effect else f"*no effect*: {flags.without_effect_reason(flag)}"
        )
        paths = ", ".join(f"`{path}`" for path in flag.fields)
        rows.append(
            (f"`--{flag.name}`", paths, "read" if flag.keeps_with_config else "ignored", text)
        )
    return rows


TABLES = {
    "fields": _table(("Field", "Default", "Meaning"), _field_rows()),
    "gates": _table(("Feature gate", "Default", "Meaning"), _gate_rows()),
    "own": _table(("Field", "Default", "Meaning"), _own_rows()),
    "flags": _table(("Flag", "Field", "With `--config`", "Meaning"), _flag_rows()),
}


def _section(name: str) -> re.Pattern[str]:
    return re.compile(
        rf"(<!-- {name}: rendered from the code -->\n)(.*?)(\n<!-- end -->)", re.DOTALL
    )


@pytest.mark.parametrize("name", TABLES)
def test_a_table_of_the_page_is_what_the_code_says(name: str) -> None:
    found = _section(name).search(PAGE.read_text())

    assert found is not None
    assert found.group(2) == TABLES[name], "run: python -m tests.unit.test_configuration_docs"


@pytest.mark.parametrize("name", TABLES)
def test_a_table_has_as_many_cells_in_every_row(name: str) -> None:
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in TABLES[name].splitlines()}) == 1


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
