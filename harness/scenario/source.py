"""Reads a scenario's YAML so that a mistake can be shown at its line.

YAML holds data only: no tags that build objects, no aliases that expand without bound, no key given twice.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from harness.errors import ScenarioError

KeyPath = tuple[str | int, ...]

_MAX_BYTES = 1 << 20


class _NoAliases(yaml.SafeLoader):
    """A safe loader without aliases: a scenario has no use for them, and nested ones expand without bound."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(problem="aliases are not used here", problem_mark=mark)
        return super().compose_node(parent, index)


def read(
    path: Path, what: str = "scenario", keys: str = "'name:' and 'benchmark:'"
) -> tuple[dict[str, Any], Mapping[KeyPath, int]]:
    """The mapping in a YAML file, and the line (from 1) of every key path in it.

    Raises ScenarioError, naming the file and the line, for what is not one YAML mapping of text keys, each given once;
    ``what`` it is and which ``keys`` it begins with are words for these sentences.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ScenarioError(f"{path}: has {path.stat().st_size} bytes; a {what} has at most {_MAX_BYTES}")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ScenarioError(f"{path}: cannot be read: {error.strerror}; a YAML file is wanted") from None
    except UnicodeDecodeError as error:
        raise ScenarioError(f"{path}: byte {error.start} is not UTF-8; a {what} is UTF-8 text") from None
    try:
        loader = _NoAliases(text)
        node = loader.get_single_node()
        if not isinstance(node, yaml.MappingNode):
            raise ScenarioError(f"{path}: holds no mapping; a {what} begins with keys such as {keys}")
        lines: dict[KeyPath, int] = {}
        _locate(path, node, (), lines)
        return loader.construct_document(node), lines
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ScenarioError(f"{path}:{line}: is not YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise ScenarioError(f"{path}: is not YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise ScenarioError(f"{path}: is nested too deeply to be a {what}") from None


def _locate(path: Path, node: yaml.Node, key_path: KeyPath, lines: dict[KeyPath, int]) -> None:
    lines[key_path] = node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode) or key.tag != "tag:yaml.org,2002:str":
                raise ScenarioError(f"{path}:{line}: a key is not text; keys are names such as 'benchmark'")
            child = (*key_path, key.value)
            if child in lines:
                raise ScenarioError(
                    f"{path}:{line}: the key {key.value!r} is given twice; the first is on line {lines[child]}"
                )
            _locate(path, value, child, lines)
            lines[child] = line
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            _locate(path, value, (*key_path, index), lines)
