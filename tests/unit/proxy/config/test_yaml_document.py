"""YAML is read as Kubernetes reads it, and what stands twice is noticed."""

import pytest

from proxy.config import yaml_document


def test_documents_are_returned_in_order() -> None:
    assert yaml_document.parse("a: 1\n---\nb: 2\n") == ([{"a": 1}, {"b": 2}], [])


def test_the_last_of_two_equal_keys_wins_and_is_named_with_its_line() -> None:
    documents, repeated = yaml_document.parse("a: 1\nb:\n  c: 1\n  c: 2\na: 3\n")

    assert documents == [{"a": 3, "b": {"c": 2}}]
    assert sorted(repeated) == [("a", 5), ("c", 4)]


def test_a_key_that_overrides_a_merged_one_does_not_stand_twice() -> None:
    text = "base: &base {a: 1, b: 2}\nother:\n  <<: *base\n  a: 3\n"

    documents, repeated = yaml_document.parse(text)

    assert documents == [{"base": {"a": 1, "b": 2}, "other": {"a": 3, "b": 2}}]
    assert repeated == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: [1\n", "line 2, column 1: "),
        ("a: b: c\n", "line 1, column 5: mapping values are not allowed"),
        (
            "a: !!python/object:os.system {}\n",
            "line 1, column 4: could not determine a constructor",
        ),
        ("a: *missing\n", "line 1, column 4: found undefined alias"),
        ("? [1]\n: 2\n", "line 1, column 3: found unhashable key"),
        ("a: \x07\n", "special characters are not allowed"),
    ],
)
def test_bad_syntax_is_refused_with_its_place(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem) as caught:
        yaml_document.parse(text)

    assert "\n" not in str(caught.value)
