"""``harness weights convert``: the one place where a pickle is opened, and its output."""

import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from baselines.networks.convert import convert
from baselines.networks.hyperprior import ScaleHyperprior
from baselines.networks.weights import read
from baselines.neural_codec import Hyperprior, NeuralPoint, bundled
from harness.errors import CheckpointError

Run = Callable[..., tuple[int, str, str]]


def _published(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The keys that CompressAI's first release gave an entropy bottleneck."""
    old = {"matrices.": "_matrices.", "biases.": "_biases.", "factors.": "_factors."}
    found = {}
    for name, tensor in state.items():
        for new, before in old.items():
            name = name.replace(f"entropy_bottleneck.{new}", f"entropy_bottleneck.{before}")
        found[name] = tensor
    return found


HOLDERS: dict[str, Callable[[dict[str, torch.Tensor]], Any]] = {
    "bare": lambda state: state,
    "old": _published,
    "state_dict": lambda state: {"epoch": 3, "state_dict": state, "optimizer": {"lr": 0.1}},
    "network": lambda state: {"network": {f"module.{name}": tensor for name, tensor in _published(state).items()}},
    "parameters": lambda state: {name: torch.nn.Parameter(t, t.is_floating_point()) for name, t in state.items()},
}


@pytest.mark.slow
@pytest.mark.parametrize("holder", HOLDERS)
def test_a_checkpoint_becomes_the_codec_that_it_was(holder: str, tmp_path: Path) -> None:
    """Bare, wrapped and in an older layout: the same tensors, and a scheme codes with them."""
    state = read(bundled("hyperprior")[0.006])
    path, out = tmp_path / "model.pth.tar", tmp_path / "model.safetensors"
    torch.save(HOLDERS[holder](state), path)
    said = convert(path, out)
    assert f"{out}: {len(state)} tensors" in said
    assert "bmshj2018-hyperprior" in said
    found = load_file(out)
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in state.items())
    Hyperprior(NeuralPoint(weights=str(out)))
    assert sorted(tmp_path.iterdir()) == [path, out]


@pytest.mark.slow
def test_the_command_reports_what_it_wrote(harness: Run, tmp_path: Path) -> None:
    """Status 0 and a line: the file, the number of tensors and values, and whose keys they have."""
    torch.save({"state_dict": ScaleHyperprior(8, 12).state_dict()}, tmp_path / "model.pt")
    status, out, err = harness("weights", "convert", "model.pt", "model.safetensors")
    assert (status, err) == (0, "")
    assert re.fullmatch(r"model\.safetensors: \d+ tensors, \d+ numbers; the keys of bmshj2018-hyperprior.*\n", out)
    assert read(tmp_path / "model.safetensors")["g_a.6.weight"].shape == (12, 8, 5, 5)


class _Runs:
    """An object whose unpickling makes a folder."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("made-by-a-pickle",)


def _write(kind: str, path: Path) -> None:
    small = {"g_a.0.weight": torch.zeros(2, 3, 5, 5)}
    match kind:
        case "code":
            torch.save({"state_dict": _Runs()}, path)
        case "bare pickle":
            path.write_bytes(pickle.dumps(_Runs()))
        case "cut":
            torch.save(small, path)
            path.write_bytes(path.read_bytes()[:600])
        case "empty":
            path.write_bytes(b"")
        case "list":
            torch.save([1, 2], path)
        case "no tensors":
            torch.save({"epoch": 3, "lr": 0.1}, path)
        case "nested":
            torch.save({**small, "ema": small}, path)
        case "twice":
            torch.save(
                {"entropy_bottleneck._matrix0": torch.zeros(1), "entropy_bottleneck.matrices.0": torch.ones(1)}, path
            )
        case "bomb":
            torch.save({"g_a.0.weight": torch.zeros(1).expand(10**11)}, path)


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("code", "is not a file of only tensors: it asks for .*mkdir"),
        ("bare pickle", "is not a file of only tensors: "),
        ("cut", "is not a file of only tensors: "),
        ("empty", "is not a file of only tensors: "),
        ("list", "holds a list, not a state dict"),
        ("no tensors", "holds no tensors where a state dict has them; its keys: epoch, lr"),
        ("nested", "holds tensors and more dictionaries: ema"),
        ("twice", r"holds entropy_bottleneck\.matrices\.0 twice"),
        ("absent", "cannot be read: No such file"),
    ],
)
def test_what_is_no_state_dict_is_refused_in_a_sentence(
    kind: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is named, no code in it has run, and nothing is written."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "model.pth"
    _write(kind, path)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(CheckpointError, match=sentence) as caught:
        convert(path, tmp_path / "model.safetensors")
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert "weights_only" not in str(caught.value)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "sentence"),
    [("code", "it asks for .*mkdir, which is not a tensor"), ("bomb", "a tensor of it cannot be read: .*allocate")],
)
def test_the_command_refuses_what_would_run_or_fill_the_memory(
    harness: Run, kind: str, sentence: str, tmp_path: Path
) -> None:
    """Status 2 and one sentence; a file of a kilobyte that claims 400 GB ends only its own process."""
    _write(kind, tmp_path / "model.pth")
    before = sorted(tmp_path.iterdir())
    status, out, err = harness("weights", "convert", "model.pth", "model.safetensors")
    assert (status, out) == (2, "")
    assert err.startswith("harness: model.pth: ")
    assert len(err.splitlines()) == 1
    assert re.search(sentence, err), err
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("out", "sentence"),
    [
        ("model.pth", r"model\.pth: the file to write ends in \.safetensors"),
        ("kept.safetensors", r"kept\.safetensors: exists"),
        ("absent/model.safetensors", "absent/model.safetensors: cannot be written"),
    ],
)
def test_a_file_that_cannot_be_written_is_reported(
    out: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong name, an existing file, a missing folder."""
    monkeypatch.chdir(tmp_path)
    torch.save({"g_a.0.weight": torch.zeros(2, 3, 5, 5)}, tmp_path / "in.pth")
    (tmp_path / "kept.safetensors").write_bytes(b"mine")
    with pytest.raises(CheckpointError, match=sentence):
        convert(Path("in.pth"), Path(out))
    assert (tmp_path / "kept.safetensors").read_bytes() == b"mine"


def test_pickles_are_opened_in_one_module() -> None:
    """Nothing else of the project loads what torch.save or pickle wrote."""
    root = Path(__file__).parents[2]
    opening = re.compile(r"torch\.load\((?!weights_only=True\))|pickle\.loads?\((?!pickle\.dumps)|weights_only=False")
    found = [
        str(path.relative_to(root))
        for package in ("harness", "baselines")
        for path in (root / package).rglob("*.py")
        if opening.search(path.read_text())
    ]
    assert found == ["baselines/networks/convert.py"]
