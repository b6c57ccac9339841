"""Flags take the texts that Go's flags take."""

import argparse

import pytest

from proxy.config.flag_values import PARSERS, Kind
from proxy.config.kubeproxy import VModuleItem


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        *(("bool", text, True) for text in ("1", "t", "T", "true", "TRUE", "True")),
        *(("bool", text, False) for text in ("0", "f", "F", "false", "FALSE", "False")),
        ("int", "-999", -999),
        ("float", "0.5", 0.5),
        ("duration", "1m30s", 90.0),
        ("str", "", ""),
        ("list", "", []),
        ("list", "10.0.0.0/8, fd00::/8", ["10.0.0.0/8", "fd00::/8"]),
        ("gates", "A=true, B=0", [("A", True), ("B", False)]),
        ("gates", "", []),
        ("vmodule", "proxier=4", [VModuleItem(file_pattern="proxier", verbosity=4)]),
    ],
)
def test_a_text_is_read(kind: Kind, text: str, value: object) -> None:
    assert PARSERS[kind](text) == value


@pytest.mark.parametrize(
    ("kind", "text", "problem"),
    [
        ("bool", "yes", "must be true or false, got 'yes'"),
        ("bool", "", "must be true or false, got ''"),
        ("int", "1.5", "must be a whole number, got '1.5'"),
        ("float", "many", "must be a number, got 'many'"),
        ("duration", "30", "'30' is not a duration"),
        ("gates", "A", "must be Name=true or Name=false, got 'A'"),
        ("gates", "=true", "must be Name=true or Name=false, got '=true'"),
        ("gates", "A=maybe", "must be true or false, got 'maybe'"),
        ("vmodule", "proxier=x", "must be a whole number, got 'x'"),
    ],
)
def test_another_text_is_refused_with_what_is_allowed(kind: Kind, text: str, problem: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=problem):
        PARSERS[kind](text)
