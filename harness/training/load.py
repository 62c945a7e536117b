"""From a YAML file and ``--set key=value`` to a :class:`TrainingConfig`, or to one sentence a mistake."""

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from harness.errors import ScenarioError
from harness.scenario.explain import mistakes, sentences
from harness.scenario.source import KeyPath, read, value
from harness.tofc.manifest import MERGING
from harness.training.config import Stage, TrainingConfig

_FREE_TO_CHANGE = ("out", "log_every", "save_every", "threads", "workers")
"""What may be changed when a training is resumed: no weight depends on it, except for the last bits, on the threads."""


_STAGES: Mapping[Stage, Mapping[str, Any]] = {
    "whole": {},
    "codec": {"steps": 0, "epochs": None, "lora": {"rank": 0}},
    "merging": {"codec": None, "lambda": None, "prefit": {}},
}
"""What each stage replaces in a configuration."""


def load(path: Path, settings: Sequence[str] = (), stage: Stage = "whole") -> TrainingConfig:
    """The configuration in a YAML file, with ``settings`` (``lora.rank=8``) in place of its values.

    A ``stage`` of it is named after both, and has a folder of its own: ``out``, an underscore, the stage.
    Raises ScenarioError with a sentence for every mistake, each naming the file and line, or the setting.
    """
    document = read(path, what="configuration", keys="'name:' and 'backbone:'")
    document.mapping.update(copy.deepcopy(_STAGES[stage]))
    for key in ("name", "out") if stage != "whole" else ():
        if isinstance(document.mapping.get(key), str):
            document.mapping[key] += f"_{stage}"
    given: dict[KeyPath, str] = {}
    for setting in settings:
        given[_set(document.mapping, setting)] = setting
    try:
        config = TrainingConfig.model_validate(document.mapping)
    except ValidationError as error:
        of_file, of_settings = [], []
        for key_path, sentence in sentences(error):
            mine = [setting for under, setting in given.items() if key_path[: len(under)] == under]
            if mine:
                of_settings.append(f"--set {mine[0]}: {sentence}")
            else:
                of_file.append((key_path, sentence))
        if of_file or document.mistakes:
            of_settings.append(str(mistakes(path, document, iter(of_file))))
        raise ScenarioError("\n".join(of_settings)) from None
    if document.mistakes:
        raise mistakes(path, document, iter(()))
    return config


def _set(mapping: dict[str, Any], setting: str) -> KeyPath:
    """Put ``a.b=value`` in its place; the value is read as YAML."""
    dotted, equals, text = setting.partition("=")
    *parents, last = dotted.split(".")
    try:
        replaced = value(text)
    except ValueError:
        equals = ""
    if not equals or not last:
        raise ScenarioError(f"--set {setting}: is not KEY=VALUE, such as lambda=0.1 or lora.rank=8")
    for key in parents:
        inner = mapping.setdefault(key, {})
        if not isinstance(inner, dict):
            raise ScenarioError(f"--set {setting}: {key!r} has no keys inside it")
        mapping = inner
    mapping[last] = replaced
    return (*parents, last)


def as_given(config: TrainingConfig) -> dict[str, Any]:
    """All that decides the weights, as plain data with the file's keys, every default included.

    Where a training puts its files, and how often, is left out.
    """
    given = config.model_dump(mode="json", by_alias=True, exclude=set(_FREE_TO_CHANGE))
    del given["prefit"]["cache"]
    # Configurations from before there were other reductions and codecs keep their hash.
    if given["scheme"] == MERGING:
        del given["scheme"]
    if given["codec"] is not None and given["codec"]["scheme"] == MERGING:
        del given["codec"]["scheme"], given["codec"]["bits"]
    return given


def config_hash(config: TrainingConfig) -> str:
    """A SHA-256 over all that decides the weights, in 16 hexadecimal digits."""
    return hashlib.sha256(json.dumps(as_given(config), sort_keys=True).encode()).hexdigest()[:16]
