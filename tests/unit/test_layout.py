"""The shape of the tree: what stands at the top, what things are called, and that each module has its test."""

import ast
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("proxy", "backends")

FILES_AT_THE_TOP = {
    "pyproject.toml",
    "requirements.lock",
    "requirements-dev.lock",
    "requirements-iptables.lock",
    "Makefile",
    "README.md",
    "CHANGELOG.md",
    "LICENSE",
    "Dockerfile",
    ".dockerignore",
    ".gitignore",
}
DIRECTORIES_AT_THE_TOP = {
    ".ci",
    ".git",
    "proxy",
    "backends",
    "tests",
    "e2e",
    "bench",
    "deploy",
    "docs",
    "examples",
}

# Shells around the kernel or the process have no logic that a fake could show right. Each names the test that runs it.
TESTED_ELSEWHERE: dict[str, str] = {}

# words that say nothing about what is inside
EMPTY_NAMES = {"utils", "util", "helpers", "helper", "common", "manager", "base", "misc"}


def modules(*tops: str) -> list[Path]:
    return sorted(path.relative_to(ROOT) for top in tops for path in (ROOT / top).rglob("*.py"))


def expected_test(module: Path) -> Path:
    """`proxy/cache.py` → `tests/unit/proxy/test_cache.py`; a package's own code is tested beside the package."""
    subject = module.parent if module.name == "__init__.py" else module.with_suffix("")
    return Path("tests/unit") / subject.with_name(f"test_{subject.name}.py")


def has_code(source: str) -> bool:
    """Whether any function does something: constants, types and protocols alone leave nothing to test."""
    return any(
        not all(is_silent(statement) for statement in node.body)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )


def is_silent(statement: ast.stmt) -> bool:
    """A docstring, `...` or `pass`."""
    is_constant = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    return is_constant or isinstance(statement, ast.Pass)


def ignored_names() -> Iterator[str]:
    for line in (ROOT / ".gitignore").read_text().splitlines():
        yield line.strip("/")


def test_nothing_unexpected_stands_at_the_top() -> None:
    ignored = list(ignored_names())

    unexpected = [
        entry.name
        for entry in ROOT.iterdir()
        if entry.name not in FILES_AT_THE_TOP | DIRECTORIES_AT_THE_TOP
        and not any(fnmatch(entry.name, name) for name in ignored)
    ]

    assert unexpected == []


def test_every_module_with_code_has_its_test() -> None:
    untested = [
        f"{module}: no {expected_test(module)}"
        for module in modules(*PACKAGES)
        if str(module) not in TESTED_ELSEWHERE
        and has_code((ROOT / module).read_text())
        and not (ROOT / expected_test(module)).exists()
    ]

    assert not untested, "\n".join(untested)


def test_every_unit_test_has_its_module() -> None:
    # a long test is split by aspect: test_cache_splits.py stands beside test_cache.py and is about the same module
    expected = {expected_test(module).with_suffix("") for module in modules(*PACKAGES)}

    orphans = [
        str(path)
        for path in modules(*(f"tests/unit/{package}" for package in PACKAGES))
        if path.name.startswith("test_")
        and path.with_suffix("") not in expected
        and not any(str(path).startswith(f"{test}_") for test in expected)
    ]

    assert not orphans, "\n".join(orphans)


def test_what_is_tested_elsewhere_is_there_and_so_is_its_test() -> None:
    missing = [
        path for pair in TESTED_ELSEWHERE.items() for path in pair if not (ROOT / path).exists()
    ]
    needless = [
        module for module in TESTED_ELSEWHERE if (ROOT / expected_test(Path(module))).exists()
    ]

    assert (missing, needless) == ([], [])


@pytest.mark.parametrize(
    "readme", sorted(ROOT.glob("backends/*/README.md")), ids=lambda path: path.parent.name
)
def test_the_map_of_a_backend_has_every_module(readme: Path) -> None:
    text = readme.read_text()
    there = [path.stem for path in readme.parent.glob("*.py") if path.stem != "__init__"]

    assert [name for name in sorted(there) if f"`{name}`" not in text] == []


def test_what_says_that_it_is_pure_is_held_to_it() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        pure, *_ = tomllib.load(file)["tool"]["importlinter"]["contracts"]
    saying = [
        ".".join(module.with_suffix("").parts)
        for module in modules(*PACKAGES)
        if (ast.get_docstring(ast.parse((ROOT / module).read_text())) or "")
        .partition("\n")[0]
        .endswith("Pure.")
    ]

    assert saying
    assert [name for name in saying if name not in pure["source_modules"]] == []


def test_every_directory_of_modules_is_a_package() -> None:
    # without it the type checker and the import linter silently look away
    directories = {path.parent for path in modules(*PACKAGES, "tests", "e2e", "bench")}

    assert [
        str(each) for each in sorted(directories) if not (ROOT / each / "__init__.py").exists()
    ] == []


def test_names_say_what_is_inside() -> None:
    everywhere = modules(*PACKAGES, "tests", "e2e", "bench")

    assert [str(path) for path in everywhere if path.stem in EMPTY_NAMES] == []
    assert [str(path) for path in everywhere if path.parent.name in EMPTY_NAMES] == []


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("NUMBER = 1\n", False),
        ("class Law:\n    def hold(self) -> None:\n        '''Always.'''\n        ...\n", False),
        ("class Law:\n    def hold(self) -> int:\n        return 1\n", True),
        ("async def wait() -> None:\n    await it\n", True),
    ],
    ids=["constant", "protocol", "method", "coroutine"],
)
def test_code_is_told_from_declarations(source: str, expected: bool) -> None:
    assert has_code(source) is expected


@pytest.mark.parametrize(
    ("module", "test"),
    [
        ("proxy/cache.py", "tests/unit/proxy/test_cache.py"),
        ("backends/kernel/nft.py", "tests/unit/backends/kernel/test_nft.py"),
        ("backends/__init__.py", "tests/unit/test_backends.py"),
        ("proxy/config/__init__.py", "tests/unit/proxy/test_config.py"),
    ],
)
def test_a_test_stands_where_its_module_does(module: str, test: str) -> None:
    assert expected_test(Path(module)) == Path(test)
