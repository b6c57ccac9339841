"""YAML into plain values, noting keys that stand twice. Imported only when a YAML file is read, as PyYAML is slow to load."""

from collections.abc import Hashable
from typing import Final

import yaml

_MERGE_TAG: Final = "tag:yaml.org,2002:merge"


class _Loader(yaml.SafeLoader):
    """The safe loader, which lets the last of two equal keys win (as Kubernetes does) but remembers that there were two."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.repeated: list[tuple[str, int]] = []

    def construct_mapping(
        self, node: yaml.MappingNode, deep: bool = False
    ) -> dict[Hashable, object]:
        seen = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag == _MERGE_TAG:
                continue
            if key_node.value in seen:
                self.repeated.append((key_node.value, key_node.start_mark.line + 1))
            seen.add(key_node.value)
        return super().construct_mapping(node, deep=deep)


def parse(text: str) -> tuple[list[object], list[tuple[str, int]]]:
    """Return the documents of a YAML stream, and every repeated key with its line; raise ValueError on bad syntax."""
    try:
        return _parse(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ValueError(f"{where}{error.problem or 'this is not YAML'}") from error
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error


def _parse(text: str) -> tuple[list[object], list[tuple[str, int]]]:
    loader = _Loader(text)
    documents: list[object] = []
    try:
        # types-pyyaml leaves this method out
        while loader.check_data():  # type: ignore[no-untyped-call]
            documents.append(loader.get_data())
    finally:
        loader.dispose()
    return documents, loader.repeated
