"""What is shipped: exactly `proxy` and `backends`, under names that nobody else may own, from pinned dependencies."""

import importlib.metadata
import re
import subprocess
import sys
import tomllib
import venv
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

import proxy

ROOT = Path(__file__).parents[2]
LOCKS = ("requirements.lock", "requirements-dev.lock", "requirements-iptables.lock")
OURS = {"sliceproxy"}
PACKAGES = ("proxy", "backends")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this tree, built without an isolated environment: its build backend is pinned as all else is."""
    directory = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", directory, ROOT],
        check=True,
        capture_output=True,
        text=True,
    )
    (built,) = directory.iterdir()
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment that holds the wheel, and finds only the dependencies elsewhere."""
    directory = tmp_path_factory.mktemp("installed")
    venv.create(directory, with_pip=False)
    (site_packages,) = directory.glob("lib/python*/site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site_packages)
    # A directory named in a .pth file comes after site-packages, and the .pth files in it are not read: what is
    # installed beside the tests as an editable checkout stays out.
    (site_packages / "dependencies.pth").write_text(f"{site_packages_of_the_tests()}\n")
    return directory / "bin/python"


def site_packages_of_the_tests() -> Path:
    return Path(pytest.__file__).parents[1]


def owners(package: str) -> set[str]:
    """The distributions that install a package of that name here."""
    return set(importlib.metadata.packages_distributions().get(package, []))


def pins(lock: str) -> dict[str, str]:
    """Name and version of everything a lock file holds."""
    return dict(re.findall(r"^([a-z0-9._-]+)==(\S+)", (ROOT / lock).read_text(), re.MULTILINE))


# --- the wheel


def test_the_wheel_holds_the_two_packages_and_nothing_else(wheel: Path) -> None:
    tops = {name.partition("/")[0] for name in zipfile.ZipFile(wheel).namelist()}

    assert {top for top in tops if not top.endswith(".dist-info")} == set(PACKAGES)
    assert len(tops) == len(PACKAGES) + 1


def test_the_wheel_holds_every_module(wheel: Path) -> None:
    sources = {
        str(path.relative_to(ROOT)) for name in PACKAGES for path in (ROOT / name).rglob("*.py")
    }

    shipped = {name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".py")}

    assert shipped == sources


def test_the_wheel_says_what_it_is(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (metadata_name,) = (name for name in names if name.endswith("/METADATA"))
        (scripts_name,) = (name for name in names if name.endswith("/entry_points.txt"))
        metadata = Parser().parsestr(archive.read(metadata_name).decode())
        scripts = archive.read(scripts_name).decode()

    assert metadata["Name"] == "sliceproxy"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata_name.replace("METADATA", "licenses/LICENSE") in names
    assert scripts.split() == ["[console_scripts]", "sliceproxy", "=", "proxy.cli:main"]


def test_the_installed_program_runs_whatever_stands_in_the_working_directory(
    installed: Path, tmp_path: Path
) -> None:
    for package in PACKAGES:
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("raise SystemExit('the wrong one')\n")

    done = subprocess.run(
        [installed, "-I", "-m", "proxy", "version"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path)},
        check=False,
        capture_output=True,
        text=True,
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert proxy.__version__ in done.stdout


def test_the_installed_packages_are_those_of_the_wheel(installed: Path) -> None:
    ask = "import proxy, backends; print(proxy.__file__, backends.__file__)"

    printed = subprocess.run(
        [installed, "-I", "-c", ask], check=True, capture_output=True, text=True
    )

    for path in printed.stdout.split():
        assert Path(path).is_relative_to(installed.parents[1])


# --- the names


@pytest.mark.parametrize("package", PACKAGES)
def test_nobody_else_owns_our_import_names(package: str) -> None:
    assert owners(package) <= OURS


def test_somebody_else_who_owned_them_would_be_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stranger = tmp_path / "proxy.py-2.4.dist-info"
    stranger.mkdir()
    (stranger / "METADATA").write_text("Metadata-Version: 2.1\nName: proxy.py\nVersion: 2.4\n")
    (stranger / "RECORD").write_text("proxy/__init__.py,,\nproxy.py-2.4.dist-info/METADATA,,\n")
    monkeypatch.syspath_prepend(str(tmp_path))

    assert "proxy.py" in owners("proxy")


# --- the lock files


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_names_no_host(lock: str) -> None:
    # where packages come from is the business of whoever installs them
    text = (ROOT / lock).read_text()

    assert not re.search(r"://|--(extra-)?index-url|--find-links|--trusted-host", text)


@pytest.mark.parametrize("lock", LOCKS)
def test_everything_in_a_lock_is_pinned_with_hashes(lock: str) -> None:
    text = (ROOT / lock).read_text()
    requirements = re.findall(r"^[^\s#-].*(?:\n    --hash=\S+(?: \\)?)*", text, re.MULTILINE)

    assert len(requirements) == len(pins(lock)) > 0
    assert [each for each in requirements if "--hash=sha256:" not in each] == []


def test_what_is_shipped_is_what_is_tested() -> None:
    shipped, developed = pins("requirements.lock"), pins("requirements-dev.lock")

    assert {name: developed.get(name) for name in shipped} == shipped


def test_the_locks_hold_every_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    def missing(requirements: list[str], lock: str) -> set[str]:
        return {re.split(r"[<>=!~;\[ ]", each)[0] for each in requirements} - pins(lock).keys()

    assert missing(project["dependencies"], "requirements.lock") == set()
    extras = project["optional-dependencies"]
    assert missing(extras["dev"], "requirements-dev.lock") == set()
    assert missing(extras["iptables"], "requirements-iptables.lock") == set()
