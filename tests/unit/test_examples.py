"""The examples are read without a warning, and README shows what the program really says of them."""

import re
import shlex
from pathlib import Path

import pytest

from proxy import cli

ROOT = Path(__file__).parents[2]
# a directory of manifests, or a file that is complete by itself
EXAMPLES = sorted(
    path for path in (ROOT / "examples").iterdir() if path.is_dir() or path.suffix == ".yaml"
)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_an_example_is_read_without_a_warning(
    example: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["explain", "--manifests", str(example), "--node", "node-a"]) == 0

    said = capsys.readouterr()
    assert said.err == ""
    assert "+ ready" in said.out


def test_readme_shows_what_explain_prints(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    sessions = re.findall(
        r"^```\n\$ sliceproxy (explain .*)\n((?:.*\n)*?)```$",
        Path("README.md").read_text(),
        re.MULTILINE,
    )

    printed = []
    for command, _ in sessions:
        assert cli.main(shlex.split(command)) == 0
        printed.append((command, capsys.readouterr().out))

    assert sessions
    assert printed == sessions
