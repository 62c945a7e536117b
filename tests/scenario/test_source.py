"""YAML as scenarios use it: numbers of version 1.2, and every mistake at its line."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import ScenarioError
from harness.scenario import source
from harness.scenario.model import Scenario
from harness.scenario.source import Kind, read, value
from harness.training.config import TrainingConfig

letters = st.text(st.characters(min_codepoint=32, max_codepoint=0xD7FF, exclude_characters="\x7f"), max_size=150)
"""In JSON a letter has up to six characters, and YAML takes a key of at most 1,024."""
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | letters,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(letters, inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("1e-3", 0.001),
        ("-2E+2", -200.0),
        (".5", 0.5),
        ("7.", 7.0),
        ("010", 10),
        ("0o10", 8),
        ("0x1F", 31),
        ("+3", 3),
        (".inf", math.inf),
        ("~", None),
        ("true", True),
        ("1:30", "1:30"),
        ("yes", "yes"),
        ("no", "no"),
        ("1_000", "1_000"),
        ("0x_", "0x_"),
        ("0b1", "0b1"),
        ("2024-13-45", "2024-13-45"),
        ("1e", "1e"),
        (".", "."),
        ("'1'", "1"),
        ("<<", "<<"),
    ],
)
def test_a_scalar_is_what_yaml_1_2_says(text: str, wanted: Any) -> None:
    """The core schema's numbers are numbers, and nothing else is."""
    found = value(text)
    assert found == wanted
    assert type(found) is type(wanted)


@pytest.mark.slow
@given(plain)
def test_what_is_written_as_json_is_read(data: Any) -> None:
    """JSON is YAML: any plain data comes back, numbers to the last bit."""
    assert value(json.dumps(data)) == data


def _read(tmp_path: Path, text: str) -> tuple[dict[str, Any], list[tuple[int, str]]]:
    path = tmp_path / "a.yaml"
    path.write_text(text, encoding="utf-8")
    document = read(path)
    return document.mapping, document.mistakes


def test_every_wrong_line_is_reported_and_the_rest_is_read(tmp_path: Path) -> None:
    """Tags, aliases, duplicate keys and endless numbers do not hide each other."""
    text = f"a: !!int x\nb: &n 1\nc: *n\na: 2\n3: d\nd: {'9' * 5000}\ne: [1, {{f: 2}}]\n"
    mapping, mistakes = _read(tmp_path, text)
    assert [line for line, _ in mistakes] == [1, 3, 4, 5, 6]
    assert (mapping["b"], mapping["e"]) == (1, [1, {"f": 2}])
    for (_, sentence), said in zip(
        mistakes,
        ["leave '!!int' out", r"aliases", "given twice; the first is on line 1", "not text", "5000"],
        strict=True,
    ):
        assert said in sentence


@pytest.mark.parametrize("seed", ["!!int 'x'", "!!bool x", "!!float x", "!!timestamp x", "!!binary x", "!x y", "! z"])
def test_a_tag_is_refused_and_never_obeyed(tmp_path: Path, seed: str) -> None:
    """One sentence; no constructor of the library is called."""
    _, mistakes = _read(tmp_path, f"name: a\nseed: {seed}\n")
    assert [line for line, _ in mistakes] == [2]
    assert "tags are not used here" in mistakes[0][1]


@pytest.mark.parametrize("nested", ["[" * 5000, "{a: " * 5000, "[" * 500 + "]" * 500])
def test_deep_nesting_is_refused(tmp_path: Path, nested: str) -> None:
    """One sentence, not a stack overflow."""
    path = tmp_path / "deep.yaml"
    path.write_text(f"a: {nested}")
    with pytest.raises(ScenarioError, match="nested more than"):
        read(path)


def test_both_parsers_give_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If PyYAML was built without its parser in C, scenarios are read alike."""
    text = "name: a\nb: [1e-3, 010, 'x', \"y\"]\nc: |\n  z\n"
    first = _read(tmp_path, text)
    monkeypatch.delattr(yaml, "CSafeLoader", raising=False)
    assert _read(tmp_path, text) == first == ({"name": "a", "b": [0.001, 10, "x", "y"], "c": "z\n"}, [])


def test_a_device_is_no_scenario() -> None:
    """A file without an end is refused at once."""
    with pytest.raises(ScenarioError, match="device, not a file"):
        read(Path("/dev/zero"))


ROOT = Path(__file__).parents[2]
FILES = {
    source.SCENARIO: [*ROOT.glob("scenarios/*.yaml"), ROOT / "examples/own_scheme.yaml"],
    source.TRAINING: list(ROOT.glob("training/*.yaml")),
    source.CLAIMS: [ROOT / "harness/claims/paper.yaml"],
    source.MANIFEST: list(ROOT.glob("results/reference/*/manifest.json")),
}


@pytest.mark.slow
@pytest.mark.parametrize("expected", FILES, ids=lambda kind: kind.what)
def test_a_file_of_another_kind_is_one_sentence(expected: Kind) -> None:
    """With what it is and what takes it, where any other kind is expected; as its own kind it is read."""
    for kind, paths in FILES.items():
        assert paths
        for path in paths:
            if kind is expected:
                assert read(path, expected).mapping
                continue
            with pytest.raises(ScenarioError) as caught:
                read(path, expected)
            wanted = f"is a {kind.what}, and a {expected.what} is expected here; {kind.taken_by}"
            assert str(caught.value) == f"{path}: {wanted}"


def test_kinds_are_told_by_keys_that_no_other_kind_has() -> None:
    """Each is a key of its kind, so that a key that is renamed is not forgotten here."""
    keys = {source.SCENARIO: set(Scenario.model_fields), source.TRAINING: set(TrainingConfig.model_fields)}
    aliases = {field.alias for field in TrainingConfig.model_fields.values() if field.alias}
    keys[source.TRAINING] |= aliases
    for kind, of_kind in keys.items():
        assert kind.own <= of_kind
        assert not any(kind.own & of_other for other, of_other in keys.items() if other is not kind)


def test_a_key_of_another_kind_in_a_file_is_only_unknown(tmp_path: Path) -> None:
    """A scenario with a few keys of a training stays a scenario."""
    path = tmp_path / "mixed.yaml"
    path.write_text("name: a\nbenchmark: MME\npipelines: []\nreplay: {}\nsteps: 3\nbatch: 2\nout: here\n")
    assert read(path).mapping["steps"] == 3


def test_a_runs_folder_is_no_scenario() -> None:
    """It is said to be one."""
    folder = ROOT / "results/reference/smoke"
    with pytest.raises(ScenarioError, match=r"smoke: is a run's folder; a scenario \(a YAML file\) is expected$"):
        read(folder)
