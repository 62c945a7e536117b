"""From a YAML file and ``--set key=value`` to a :class:`TrainingConfig`, or to one sentence a mistake."""

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from harness import files
from harness.errors import ScenarioError
from harness.scenario.explain import mistakes, sentences
from harness.scenario.source import TRAINING, KeyPath, read, value
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
    Raises ScenarioError with a sentence for every mistake, each naming the file and line, or the option.
    """
    document = read(path, TRAINING)
    mapping = _changed(document.mapping, settings, stage)
    found = _mistakes(mapping)
    if not found and not document.mistakes:
        return TrainingConfig.model_validate(mapping)
    of_file, of_command = [], []
    for key_path, sentence in found:
        if blamed := _blamed(document.mapping, settings, stage, (key_path, sentence)):
            of_command.append(f"{' '.join(blamed)}: {sentence}")
        else:
            of_file.append((key_path, sentence))
    if of_file or document.mistakes:
        of_command.append(str(mistakes(path, document, iter(of_file))))
    raise ScenarioError("\n".join(of_command))


def _changed(mapping: Mapping[str, Any], settings: Sequence[str], stage: Stage) -> dict[str, Any]:
    """A file's mapping with what a stage and settings replace in it."""
    changed = copy.deepcopy({**mapping, **_STAGES[stage]})
    for key in ("name", "out") if stage != "whole" else ():
        if isinstance(changed.get(key), str):
            changed[key] += f"_{stage}"
    for setting in settings:
        _set(changed, setting)
    return changed


def _mistakes(mapping: Mapping[str, Any]) -> list[tuple[KeyPath, str]]:
    try:
        TrainingConfig.model_validate(mapping)
    except ValidationError as error:
        return list(sentences(error))
    return []


def _blamed(
    mapping: Mapping[str, Any], settings: Sequence[str], stage: Stage, mistake: tuple[KeyPath, str]
) -> list[str]:
    """The options that a mistake is of: the setting of its key, or all without each of which it is not made."""
    for setting in settings:
        under = _set({}, setting)
        if mistake[0][: len(under)] == under:
            return [f"--set {setting}"]
    found = []
    for place, setting in enumerate(settings):
        others = [*settings[:place], *settings[place + 1 :]]
        if mistake not in _mistakes(_changed(mapping, others, stage)):
            found.append(f"--set {setting}")
    if stage != "whole" and mistake not in _mistakes(_changed(mapping, settings, "whole")):
        found.insert(0, f"--stage {stage}")
    return found


def refuse_folders(path: Path, config: TrainingConfig, settings: Sequence[str] = ()) -> None:
    """Raises ScenarioError, naming the setting or the file, for a folder that could not be made and written now."""
    for key, named in (("out", config.out), ("prefit.cache", config.prefit.cache)):
        if named is None:
            continue
        given = next((setting for setting in reversed(settings) if setting.startswith(f"{key}=")), None)
        where = f"{path}: {key}: {named}" if given is None else f"--set {given}"
        try:
            files.check_folder(Path(named))
        except NotADirectoryError as error:
            what = "" if error.filename == named else f"{error.filename} "
            raise ScenarioError(f"{where}: {what}is a file; a folder is expected") from None
        except OSError as error:
            raise ScenarioError(f"{where}: cannot be written: {files.why(error)}") from None


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
