"""mini-nano: mini-onevision's tower, a smaller language model, and lower scores."""

import pytest
import torch

from harness.catalog import ZOO
from harness.models.onevision import load
from recipes import language, mini_nano, mini_onevision

FOLDER = ZOO / mini_nano.NAME


@pytest.fixture(scope="module")
def trained():
    """The backbone with the zoo's weights."""
    return load(mini_nano.NAME).backbone()


@pytest.mark.slow
def test_its_language_model_is_a_fraction_of_the_larger_ones():
    """Tower, tiling and vocabulary are mini-onevision's; less than a fifth of its language model's weights."""
    ours, theirs = mini_nano.untrained(), mini_onevision.untrained()
    assert ours.tiling == theirs.tiling
    assert ours.tokenizer.to_str() == theirs.tokenizer.to_str()
    assert ours.feature_dim == theirs.feature_dim
    sizes = [sum(p.numel() for p in backbone.model.model.language_model.parameters()) for backbone in (ours, theirs)]
    assert sizes[0] < sizes[1] / 5


@pytest.mark.slow
def test_the_text_stages_teach_it(tmp_path, monkeypatch):
    """A few steps of each of the text stages change the language model and nothing else."""
    monkeypatch.setattr(mini_nano, "LOOKUP_STEPS", 2)
    monkeypatch.setattr(mini_nano, "WORDS_STEPS", 1)
    monkeypatch.setattr(language, "_LOOKUP_LINES", 4)
    monkeypatch.setattr(language, "_PICTURES_IN_WORDS", 2)
    backbone, untouched = mini_nano.untrained(), mini_nano.untrained()
    mini_nano.train_text(backbone, tmp_path)
    changed = {
        name.split(".")[1]
        for (name, now), then in zip(backbone.model.named_parameters(), untouched.model.parameters(), strict=True)
        if not torch.equal(now, then)
    }
    assert changed == {"language_model"}


@pytest.mark.slow
def test_the_stored_weights_are_small_and_share_the_tower(trained):
    """The file is small enough for the repository; its features are mini-onevision's, up to half precision."""
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) < 6e6
    theirs = load(mini_onevision.NAME).vision().vision_tower.state_dict()
    for name, tensor in trained.model.model.vision_tower.state_dict().items():
        torch.testing.assert_close(tensor, theirs[name], rtol=2e-3, atol=1e-5)


@pytest.mark.slow
def test_the_weights_answer_the_held_out_split(trained, right_of_forty):
    """On forty held-out questions: above chance with all tokens or 4.2 % of them, at chance without an image."""
    right = right_of_forty(trained, 6)
    assert right["all"] >= 18
    assert right["merged"] >= 18
    assert right["blanked"] <= 20
