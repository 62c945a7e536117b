"""A codec whose entropy models are as many as another ablation's."""

from pathlib import Path

import pytest

from baselines.ablations.schemes import WEIGHTS, Ablation, Selective, Single
from harness.errors import CheckpointError
from harness.schemes.tofc import FeaturePoint


@pytest.mark.parametrize(
    ("scheme", "other", "sentence"),
    [
        (Single, Selective, "has 16 entropy models; tofc_single needs a codec of one, which .*codec.experts=1'"),
        (Selective, Single, "has 1 entropy model; tofc_selective needs a codec of several, which .*experts=16'"),
    ],
)
def test_a_codec_of_the_other_ablation_is_refused(
    monkeypatch: pytest.MonkeyPatch, scheme: type[Ablation], other: type[Ablation], sentence: str
) -> None:
    """Before anything is loaded, by the number in its file; a scheme's own is found."""
    folder = WEIGHTS / "mini-onevision"
    own, foreign = (FeaturePoint(codec=str(folder / of.kind / "lambda-0.2"), n_c=3) for of in (scheme, other))
    assert all(path.is_file() for path in scheme.files("mini-onevision", own).values())
    with pytest.raises(CheckpointError, match=rf"{other.kind}/lambda-0.2/codec.safetensors: {sentence}"):
        scheme.files("mini-onevision", foreign)
    monkeypatch.chdir(Path(foreign.codec).parent)
    with pytest.raises(CheckpointError, match=sentence):
        scheme.folder("mini-onevision", FeaturePoint(codec="./lambda-0.2", n_c=3))
