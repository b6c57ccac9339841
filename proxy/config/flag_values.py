"""The values of flags: text from the command line into Go's types, with errors that argparse shows to the operator."""

import argparse
from collections.abc import Callable
from typing import Final, Literal

from proxy.config import duration, kubeproxy

Kind = Literal["bool", "int", "float", "duration", "str", "list", "gates", "vmodule"]


def _parse_bool(text: str) -> bool:
    """Read a boolean as Go's strconv.ParseBool does."""
    if text in {"1", "t", "T", "true", "TRUE", "True"}:
        return True
    if text in {"0", "f", "F", "false", "FALSE", "False"}:
        return False
    raise argparse.ArgumentTypeError(f"must be true or false, got {text!r}")


def _parse_int(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a whole number, got {text!r}") from None


def _parse_float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number, got {text!r}") from None


def _parse_duration(text: str) -> duration.Duration:
    try:
        return duration.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _parse_list(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")] if text.strip() else []


def _parse_gates(text: str) -> list[tuple[str, bool]]:
    pairs = []
    for part in _parse_list(text):
        name, equals, value = part.partition("=")
        if not (name and equals):
            raise argparse.ArgumentTypeError(f"must be Name=true or Name=false, got {part!r}")
        pairs.append((name.strip(), _parse_bool(value.strip())))
    return pairs


def _parse_vmodule(text: str) -> list[kubeproxy.VModuleItem]:
    items = []
    for part in _parse_list(text):
        pattern, _, level = part.partition("=")
        items.append(kubeproxy.VModuleItem(file_pattern=pattern, verbosity=_parse_int(level)))
    return items


PARSERS: Final[dict[Kind, Callable[[str], object]]] = {
    "bool": _parse_bool,
    "int": _parse_int,
    "float": _parse_float,
    "duration": _parse_duration,
    "str": str,
    "list": _parse_list,
    "gates": _parse_gates,
    "vmodule": _parse_vmodule,
}
"""For each kind of flag, the function that reads its text."""
