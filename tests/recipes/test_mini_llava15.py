"""mini-llava15: it starts from mini-onevision's weights, it sees whole pictures, and its recipe learns."""

import numpy as np
import pytest
import torch

from harness.catalog import ZOO
from harness.data import streetsqa
from harness.data.drawing.seeded_random import SeededRandom
from harness.data.drawing.street import Street
from harness.data.questions import Page
from harness.models import llava15, onevision
from harness.models.llava15 import CLIP_MEAN, CLIP_STD
from harness.training.bundled import answer_loss
from recipes import features, language, mini_llava15, stages, tower
from recipes.views import CLASS_NAMES, LLAVA15, TileBatches, classes_seen


@pytest.fixture
def fresh():
    """The backbone from which the recipe starts."""
    return mini_llava15.untrained()


@pytest.fixture(scope="module")
def teacher():
    """The backbone whose weights it starts from."""
    return onevision.load("mini-onevision").backbone()


@pytest.mark.slow
def test_its_language_model_computes_as_its_teachers(fresh, teacher):
    """With the biases that Qwen2 lacks at zero the Llama computes the same, to the bit; so does the projector."""
    mini_llava15.begin_with(fresh, teacher)
    ours, theirs = fresh.model.model, teacher.model.model
    prompt = torch.randn(1, 40, fresh.model.config.text_config.hidden_size) * 0.1
    x_PVD = 0.03 * torch.randn(1, 9, fresh.feature_dim)
    with torch.no_grad():
        said, wanted = (m.language_model(inputs_embeds=prompt).last_hidden_state for m in (ours, theirs))
        torch.testing.assert_close(said, wanted, rtol=0, atol=0)
        torch.testing.assert_close(ours.multi_modal_projector(x_PVD), theirs.multi_modal_projector(x_PVD))


@pytest.mark.slow
def test_its_tower_sees_nearly_as_its_teachers(fresh, teacher):
    """On one tile, each with its own normalisation, their features correlate, unlike those of unrelated towers."""
    mini_llava15.begin_with(fresh, teacher)
    tiles, _ = next(iter(TileBatches(4, 0, sight=LLAVA15)))
    rgb = tiles * torch.tensor(CLIP_STD).view(3, 1, 1) + torch.tensor(CLIP_MEAN).view(3, 1, 1)
    with torch.no_grad():
        ours = tower.encode(fresh.model.model.vision_tower, tiles, LLAVA15)
        small = teacher.model.model.vision_tower(2 * rgb - 1, interpolate_pos_encoding=True, output_hidden_states=True)
        stranger = tower.encode(mini_llava15.untrained().model.model.vision_tower, tiles, LLAVA15)
    theirs = small.hidden_states[-1]

    def likeness(x_BVD):
        one, other = (x - x.mean((0, 1)) for x in (x_BVD, theirs))
        return float(torch.nn.functional.cosine_similarity(one, other, dim=-1).mean())

    assert likeness(ours) > 0.5
    assert abs(likeness(stranger)) < 0.2
    assert float(ours.std()) == pytest.approx(float(theirs.std()), rel=0.3)


@pytest.mark.slow
def test_the_prompts_words_are_tokens(fresh):
    """The fixed part of LLaVA-1.5's prompt is two tokens before the picture, and an instruction is one after it."""
    question = streetsqa.book("train", 1)[0].questions[0].question
    assert len(fresh.tokenizer.encode(fresh.template.before).ids) == 2
    suffix = fresh.template.suffix(question)
    assert suffix.endswith("letter from the given choices directly. ASSISTANT:")
    ids = fresh.tokenizer.encode(suffix).ids
    assert len(ids) < 20
    assert fresh.tokenizer.decode(ids, skip_special_tokens=False) == suffix


@pytest.mark.slow
def test_a_feature_of_the_padded_tile_has_the_class_of_what_it_covers():
    """A wide street lies in the middle rows; where the bus is features are the bus, everywhere else background."""
    scene = Page(Street(width_px=576, height_px=288, bus="red"), "train", ("test", 1), ()).scene()
    seen_PV = classes_seen(scene.label_HW, LLAVA15)
    assert seen_PV.shape == (1, LLAVA15.side**2)
    assert {CLASS_NAMES[index] for index in np.unique(seen_PV)} == {"background", "bus red"}
    bus_YX = seen_PV.reshape(LLAVA15.side, LLAVA15.side) > 0
    assert not bus_YX[:4].any()
    assert not bus_YX[-4:].any()
    covered = (scene.label_HW > 7).sum() / 4 / LLAVA15.patch_px**2
    assert covered <= bus_YX.sum() <= 3 * covered + 8


@pytest.mark.slow
def test_batches_show_whole_pictures_and_parts_of_them():
    """Tiles of 288 px with a class per feature; every detail tile shows a part of a light or a sign."""
    pixels, classes = next(iter(TileBatches(9, 0, sight=LLAVA15)))
    assert pixels.shape == (9, 3, 288, 288)
    assert classes.shape == (9, LLAVA15.side**2)
    details = [next(iter(TileBatches(9, n, details=True, sight=LLAVA15)))[1] for n in range(3)]
    small = torch.tensor([index for index, name in enumerate(CLASS_NAMES) if name.startswith(("light", "sign"))])
    of_batch = [float(torch.isin(classes, small).any(1).float().mean()) for classes in details]
    assert max(of_batch) == 1


@pytest.mark.slow
def test_scaling_a_clip_tower_scales_its_features(fresh):
    """The class token's tower begins with a norm; its features still grow by the factor."""
    vision_tower = fresh.model.model.vision_tower
    pixels, _ = next(iter(TileBatches(2, 0, sight=LLAVA15)))
    with torch.no_grad():
        before = vision_tower(pixels, output_hidden_states=True).hidden_states[-2]
        tower.scale(vision_tower, 0.5)
        after = vision_tower(pixels, output_hidden_states=True).hidden_states[-2]
    torch.testing.assert_close(after, before / 2, rtol=1e-3, atol=1e-3 * float(before.abs().max()))


@pytest.mark.slow
def test_the_packed_loss_is_that_of_the_backbones_own_prompt(fresh):
    """Lessons teach LLaVA-1.5's prompt: the answer is as probable in them as after the backbone's own."""
    asked = streetsqa.book("train", 3)[0].questions[0]
    picture = torch.randn(20, fresh.model.config.text_config.hidden_size) * 0.05
    answer = fresh.tokenizer.encode(asked.truth + fresh.template.stop).ids
    with torch.no_grad():
        loss, _ = answer_loss(fresh.model, fresh.tokenizer, [picture], [[asked]], fresh.template)
        prompt = fresh.prompt([picture], asked.question)
        read = torch.cat((prompt, fresh.model.get_input_embeddings()(torch.tensor(answer[:1]))))
        logits = fresh.model(inputs_embeds=read[None]).logits[0, -2:]
    wanted = torch.nn.functional.cross_entropy(logits, torch.tensor(answer))
    assert float(loss) == pytest.approx(float(wanted), rel=5e-3)


@pytest.mark.slow
def test_the_recipe_learns_from_nothing(fresh, tmp_path, monkeypatch):
    """Tower, merged features and whole pictures, a few steps each: every stage's loss falls."""
    pixels_and_classes = next(iter(TileBatches(3, 0, sight=LLAVA15)))
    stage = tower.ProbedTower(fresh.model.model.vision_tower, LLAVA15)

    def dense(first):
        pixels, classes = pixels_and_classes
        for _ in range(first, 99):
            yield stage.loss(tower.encode(stage.tower, pixels, LLAVA15), classes)

    losses = stages.train("tower", tmp_path, stage, {"": 1e-3}, 12, dense)
    assert losses[-1] < 0.9 * losses[0]

    pages = streetsqa.book("train", 0)[:2]
    monkeypatch.setattr(features, "book_of", lambda _: pages)
    monkeypatch.setattr(language, "book_of", lambda _: pages)
    monkeypatch.setattr(language, "ANSWERS_PICTURES", 2)
    features.cache_books(stage.tower, tmp_path / "features", 1, 1, mini_llava15.MERGED)
    lessons = features.Lessons(tmp_path / "features", 1)
    _, y_PCD = lessons.draw(SeededRandom("any"))
    assert y_PCD.shape[0] == 1
    assert y_PCD.shape[1] in {mini_llava15.MERGED.usual, *mini_llava15.MERGED.others}
    before = fresh.model.model.multi_modal_projector.linear_1.weight.clone()
    language.train_whole(fresh, tmp_path, lessons, steps=1)
    assert not torch.equal(before, fresh.model.model.multi_modal_projector.linear_1.weight)


@pytest.mark.slow
def test_the_stored_weights_answer_the_held_out_split(right_of_forty):
    """On forty held-out questions: above chance with all tokens or a ninth of them, at chance without an image."""
    trained = llava15.load("mini-llava15").backbone()
    assert sum(file.stat().st_size for file in (ZOO / mini_llava15.NAME).iterdir()) < 10e6
    right = right_of_forty(trained, 36)
    assert right["all"] >= 20
    assert right["merged"] >= 20
    assert right["blanked"] <= 20
