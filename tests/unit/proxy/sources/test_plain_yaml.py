"""YAML means what the library says it means, but for a few plain scalars."""

import math
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from proxy.sources.plain_yaml import YamlError, read


def _values(text: str | bytes) -> list[object]:
    data = text.encode() if isinstance(text, str) else text
    return [document.value for document in read(data)]


def _value(text: str) -> object:
    [value] = _values(text)
    return value


_TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\x85\u2028\u2029"), max_size=10)
_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 70), 1 << 70)
    | st.floats(allow_nan=False)
    | _TEXT
    | st.sampled_from(
        [
            "",
            "~",
            "null",
            "yes",
            "No",
            "on",
            "<<",
            "=",
            "1_0",
            "0x1F",
            "-.inf",
            "10:20",
            "2026-01-01",
            "!x",
            "&a",
            "*a",
            "- a",
        ]
    ),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXT, inner, max_size=4),
    max_leaves=20,
)


@given(st.lists(_VALUES, min_size=1, max_size=3), st.sampled_from([True, False, None]))
def test_what_the_library_writes_is_read_back(documents: list[Any], style: bool | None) -> None:
    text = yaml.safe_dump_all(documents, default_flow_style=style, allow_unicode=True)

    assert _values(text) == documents


_WORDS = [
    "yes", "Yes", "YES", "no", "y", "n", "Y", "N", "true", "True", "TRUE", "tRUE", "false", "on", "On", "off", "OFF",
    "null", "Null", "NULL", "nULL", "~", "0", "-0", "+1", "-17", "017", "-017", "08", "0o17", "0x1F", "-0x1f", "0b101",
    "1_000", "1.5", "-1.5", "+.5", ".5", "1.", "1.5e+3", "1.5e-3", "1e3", ".inf", "-.Inf", "+.INF", "inf", "1.2.3.4", "+",
    "-", ".", "..", "1a", "fd00::1", "::1", "a b", "0.0.0.0/0", "v1", "None",
]  # fmt: skip


@pytest.mark.parametrize("word", _WORDS)
def test_plain_scalars_mean_what_they_mean_to_the_library(word: str) -> None:
    text = f"- {word}\n- '{word}'\n- \"{word}\"\n"

    assert _value(text) == yaml.safe_load(text)


@pytest.mark.parametrize(
    "scalar",
    [
        "2026-01-01",
        "2026-01-01T00:00:00Z",
        "10:20",
        "1:2:3:4:5:6:7:8",
        "-1:30",
        "190:20:30.15",
        "=",
        "9" * 5000,
    ],
)
def test_plain_scalars_that_are_no_values_of_ours_stay_text(scalar: str) -> None:
    assert _value(f"a: {scalar}") == {"a": scalar}


def test_not_a_number_is_a_number() -> None:
    value = _value(".nan")

    assert isinstance(value, float)
    assert math.isnan(value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# nothing\n",
        "---\n---\n...\n",
        "a: 1\n---\nb: 2\n",
        "text",
        "- 1\n- [2, {a: b}]\n",
        "a: |\n  line\n  line\nb: >-\n  folded\n  text\n",
        "? a\n: b\n? c\n",
        "1: a\ntrue: b\nnull: c\n",
        "a: 1\na: 2\n",
        "a: &x {b: [1, 2]}\nc: *x\nd: [*x, *x]\n",
        "a: &x text\nb: *x\n",
        "base: &b {x: 1, y: 2}\nuse: {<<: *b, y: 3, z: 4}\n",
        "base: &b {x: 1, y: 2}\nuse: {y: 3, <<: *b}\n",
        "one: &o {x: 1}\ntwo: &t {x: 2, y: 2}\nuse: {<<: [*o, *t]}\n",
        "a: {'<<': 1}\n",
        "a: !!str 5\nb: !!int '5'\nc: !!float 1.5\nd: !!bool yes\ne: !!null ''\n",
        "a: !!map {b: c}\nd: !!seq [e]\n",
        "%YAML 1.1\n---\na: 1\n",
    ],
)
def test_structure_means_what_it_means_to_the_library(text: str) -> None:
    assert _values(text) == list(yaml.safe_load_all(text))


def test_every_document_has_the_line_on_which_its_content_begins() -> None:
    text = "# comment\n\na: 1\n---\n\n- x\n--- text\n"

    assert [(document.value, document.line) for document in read(text.encode())] == [
        ({"a": 1}, 3),
        (["x"], 6),
        ("text", 7),
    ]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: [\n", 2),
        ("a: 1\n\tb: 2\n", 2),
        ("a: 1\nb: *nobody\n", 2),
        ("a: 1\n---\nb: &b 1\n---\nc: *b\n", 5),
        ("a: &a [*a]\n", 1),
        ("\n[a]: b\n", 2),
        ("{a: b}: c\n", 1),
        ("a: 1\n<<: 5\n", 2),
        ("a: 1\n<<: [5]\n", 2),
        ("a: !!int x\n", 1),
        ("a: !!bool 5\n", 1),
        ("a: !!timestamp 2026-01-01\n", 1),
        ("a: !mine x\n", 1),
        ("a: !!python/object/apply:os.system [id]\n", 1),
        ("a: !!set {b}\n", 1),
        ("\n" + "[" * 1_000_000, 2),
        ("\n" + "- " * 1_000_000, 2),
        ("\n" + "{a: " * 1_000_000, 2),
    ],
)
def test_what_means_nothing_is_told_with_its_line(text: str, line: int) -> None:
    with pytest.raises(YamlError) as caught:
        _values(text)

    assert caught.value.line == line
    assert str(caught.value)


@pytest.mark.parametrize(
    "data", [b"a: \xff\n", b"a: \x00\n", b"\x80", "a: \ud800".encode(errors="surrogatepass")]
)
def test_bytes_that_are_no_text_are_an_error(data: bytes) -> None:
    with pytest.raises(YamlError) as caught:
        _values(data)

    assert "\n" not in str(caught.value)


def test_escaped_surrogates_do_not_become_text() -> None:
    with pytest.raises(YamlError):
        _values('a: "\\ud800"')


def test_an_anchor_may_be_set_anew_and_an_exclamation_mark_makes_text() -> None:
    assert _value("a: &x 1\nb: &x 2\nc: *x\nd: ! 5\n") == {"a": 1, "b": 2, "c": 2, "d": "5"}


def test_aliases_do_not_multiply_what_they_stand_for() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 30)]

    value = _value("\n".join(lines))

    assert isinstance(value, dict)
    assert value["a29"][0] is value["a28"]


def test_a_thousand_levels_are_deep_enough() -> None:
    value = _value("[" * 1000 + "]" * 1000)

    for _ in range(999):
        assert isinstance(value, list)
        value = value[0]
    assert value == []
