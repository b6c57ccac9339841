"""The door to python-iptables (`iptc`), which writes legacy tables without a program. Shell; holds no policy.

It is built from source with the project and may be missing. It keeps every table it has opened, and its sockets, and a mistake
in using it ends the process, since its work is done by C libraries; to import it takes half a second and starts ldconfig, gcc and
ld. So it has a process of its own, which is this module run as a program. It takes no lock: hold that of the programs
meanwhile. Rules of iptables-nft it cannot see.
"""

import importlib
import importlib.util
import json
import subprocess
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any, Final, NamedTuple

from backends.kernel.xtables_text import RefusedLine
from proxy.errors import KernelError
from proxy.model import IPV4, Family

CHAIN: Final = "SLICEPROXY-TRY"
"""The chain in which rules are tried."""
OTHER: Final = "SLICEPROXY-TRY-OTHER"
"""A chain that rules may lead to."""
_NAME: Final = "iptc"
_LIMIT_S: Final = 30.0
_OF_THE_RULE: Final = {"p": "protocol", "s": "src", "d": "dst", "i": "in_interface"}


def is_installed() -> bool:
    """Tell whether it is there, without importing it."""
    return importlib.util.find_spec(_NAME) is not None


Rules = Mapping[Family, Mapping[str, Sequence[str]]]
"""Rules by family and table, in the words of `iptables`, without their `-A CHAIN`."""


def try_rules(rules: Rules) -> dict[Family, dict[str, list[RefusedLine]]]:
    """Commit rules, each by itself, and take them out again; return those that cannot be had.

    In the network namespace of the calling thread, best one that is thrown away. Raises KernelError when the process fails.
    """
    argv = [sys.executable, "-I", "-m", __name__]
    request = "try rules with python-iptables"
    try:
        done = subprocess.run(
            argv,
            input=json.dumps(rules),
            capture_output=True,
            text=True,
            check=False,
            timeout=_LIMIT_S,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise KernelError(request, 0, str(error)) from error
    if done.returncode:
        last = (done.stderr.splitlines() or ["no reason given"])[-1]
        raise KernelError(request, 0, f"exit {done.returncode}: {last}")
    return {
        family: {
            table: [RefusedLine(index, text) for index, text in refused]
            for table, refused in tables.items()
        }
        for family, tables in json.loads(done.stdout).items()
    }


def answer(asked: IO[str], told: IO[str]) -> None:
    """Do what `try_rules` asks of its process."""
    rules: Rules = json.load(asked)
    library = _imported()
    refused = {
        family: {
            table: list(_try_all(library, family, table, each)) for table, each in tables.items()
        }
        for family, tables in rules.items()
    }
    json.dump(refused, told)


def _imported() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its regular expressions are not written as raw strings
        return importlib.import_module(_NAME)


def _try_all(
    library: Any, family: Family, table: str, rules: Sequence[str]
) -> Iterator[tuple[int, str]]:
    opened = (library.Table if family == IPV4 else library.Table6)(table, autocommit=False)
    for index, rule in enumerate(rules):
        error = _try(library, opened, rule, family)
        if error is not None:
            yield index, str(error)


def _try(library: Any, table: Any, rule: str, family: Family) -> Exception | None:
    refusals = (library.IPTCError, library.XTablesError, ValueError, AttributeError)
    try:
        for name in (CHAIN, OTHER):
            table.create_chain(name)
        library.Chain(table, CHAIN).append_rule(_built(library, rule, family))
        table.commit()
        table.refresh()
        library.Chain(table, CHAIN).flush()
        for name in (CHAIN, OTHER):
            table.delete_chain(name)
        table.commit()
    except refusals as error:
        return error if isinstance(error, Exception) else None
    finally:
        table.refresh()
    return None


class Option(NamedTuple):
    """One option of a rule with its words."""

    name: str
    words: tuple[str, ...]
    is_inverted: bool


def options(rule: str) -> Iterator[Option]:
    """Yield the options of a rule. A `!` stands before the option."""
    name, words, is_inverted, is_next_inverted = "", list[str](), False, False
    for word in rule.split():
        if word == "!":
            is_next_inverted = True
        elif word.startswith("-"):
            if name:
                yield Option(name, tuple(words), is_inverted)
            name, words, is_inverted, is_next_inverted = (
                word.lstrip("-"),
                [],
                is_next_inverted,
                False,
            )
        else:
            words.append(word)
    yield Option(name, tuple(words), is_inverted)


def _built(library: Any, rule: str, family: Family) -> Any:
    """Return a rule as an object of the library's. Raises its errors."""
    built = library.Rule() if family == IPV4 else library.Rule6()
    extension: Any = None
    for name, words, is_inverted in options(rule):
        value = ("!" if is_inverted else "") + "".join(words)
        if name in _OF_THE_RULE:
            setattr(built, _OF_THE_RULE[name], value)
        elif name == "m":
            extension = built.create_match(value)
        elif name in {"j", "g"}:
            extension = built.create_target(value, goto=name == "g")
        else:
            extension.set_parameter(name.replace("-", "_"), _value(words, is_inverted))
    return built


def _value(words: tuple[str, ...], is_inverted: bool) -> str | list[str]:
    if is_inverted:
        return ["!", *words]
    return list(words) if len(words) > 1 else "".join(words)


if __name__ == "__main__":
    answer(sys.stdin, sys.stdout)
