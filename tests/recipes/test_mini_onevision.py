"""mini-onevision: its recipe learns, it packs the backbone's own prompts, and its weights score well above chance."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch

from harness.catalog import ZOO
from harness.data import glimpseqa, streetsqa
from harness.data.drawing.seeded_random import SeededRandom
from harness.data.drawing.street import Street
from harness.data.questions import Page, camera_file
from harness.data.scoring import judge
from harness.models.onevision import load
from harness.tofc.merging import merge
from harness.training.bundled import NOWHERE, answer_loss, questions, spelt_out
from recipes import features, lookup, mini_onevision, stages, symbols, tower
from recipes.scores import jpeg
from recipes.views import CLASS_NAMES, GRID, TILING, TileBatches, classes_seen
from recipes.vocabulary import STOP, make_tokenizer


@pytest.fixture(scope="module")
def trained():
    """The backbone with the zoo's weights."""
    return load("mini-onevision").backbone()


@pytest.fixture
def fresh():
    """The backbone from which the recipe starts."""
    return mini_onevision.untrained()


@pytest.mark.slow
def test_the_stored_weights_have_the_recipes_architecture(trained):
    """Config and vocabulary are those of the recipe, and the file is small enough to be in the repository."""
    ours, theirs = mini_onevision.config(), trained.model.config
    for part in ("vision_config", "text_config"):
        for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"):
            assert getattr(getattr(ours, part), name) == getattr(getattr(theirs, part), name)
    vision: Any = ours.vision_config
    assert (trained.n_features, trained.feature_dim) == (GRID**2, vision.hidden_size)
    assert trained.tiling == TILING
    assert trained.tokenizer.to_str() == make_tokenizer().to_str()
    assert sum(file.stat().st_size for file in (ZOO / mini_onevision.NAME).iterdir()) < 12e6


@pytest.mark.slow
def test_the_weights_answer_the_held_out_split(trained, right_of_forty):
    """On forty held-out questions: well above chance with all tokens or 4.2 % of them, at chance without an image."""
    right = right_of_forty(trained, features.CLUSTERS, coarse=jpeg(5))
    assert right["all"] >= 26
    assert right["merged"] >= 23
    assert right["blanked"] <= 20
    assert right["coarse"] < right["all"]


def test_the_tokenizer_writes_anything_and_a_letter_in_one_token():
    """Prompts, answers and foreign text are decoded unchanged; an answer that is a word is one token."""
    tokenizer = make_tokenizer()
    for text in ("Question: What colour is the bus?\nOptions:\nA. red\n", "Größe: 3 µm, 東京", STOP):
        assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text
    for answer in ("A", "B", "C", "D", "Yes", "No", STOP):
        assert len(tokenizer.encode(answer).ids) == 1


@pytest.mark.slow
def test_a_features_class_is_the_thing_that_it_covers():
    """A street with a single bus has features of that class where the bus is, and background elsewhere."""
    scene = Page(Street(width_px=384, height_px=288, bus="red"), "train", ("test", 1), ()).scene()
    seen_PV = classes_seen(scene.label_HW)
    tiles = TILING(scene.image)
    assert seen_PV.shape == (len(tiles.pixels_PCHW), GRID**2)
    assert {CLASS_NAMES[index] for index in np.unique(seen_PV)} == {"background", "bus red"}
    covered = (scene.label_HW > 7).mean() * (384 * 288) / 16**2
    assert covered <= (seen_PV[1:] > 0).sum() <= 4 * covered + 12


@pytest.mark.slow
def test_scaling_the_tower_scales_its_features_and_nothing_else(fresh):
    """All that is added to the residual stream grows by the factor, so the features do."""
    vision_tower = fresh.model.model.vision_tower
    pixels, _ = next(iter(TileBatches(2, 0)))
    with torch.no_grad():
        before = vision_tower(pixels, output_hidden_states=True).hidden_states[-1]
        tower.scale(vision_tower, 0.5)
        after = vision_tower(pixels, output_hidden_states=True).hidden_states[-1]
    torch.testing.assert_close(after, before / 2, rtol=1e-3, atol=1e-3 * float(before.abs().max()))


@pytest.mark.slow
def test_packed_questions_are_answered_as_if_asked_alone(fresh):
    """The loss of questions packed behind one picture is the mean of their losses behind a picture of their own."""
    page = streetsqa.book("train", 3)[0]
    asked = questions(page, SeededRandom("packed"))
    picture = torch.randn(20, fresh.model.config.text_config.hidden_size) * 0.05
    with torch.no_grad():
        packed, _ = answer_loss(fresh.model, fresh.tokenizer, [picture], [asked])
        alone = [answer_loss(fresh.model, fresh.tokenizer, [picture], [[one]])[0] for one in asked]
        mixed, _ = answer_loss(fresh.model, fresh.tokenizer, [picture, picture[:7]], [asked, asked[:1]])
        short, _ = answer_loss(fresh.model, fresh.tokenizer, [picture[:7]], [asked[:1]])
    assert float(packed) == pytest.approx(float(torch.stack(alone).mean()), rel=5e-3)
    assert float(mixed) == pytest.approx((len(asked) * float(packed) + float(short)) / (len(asked) + 1), rel=5e-3)


@pytest.mark.slow
def test_the_packed_loss_is_that_of_the_backbones_own_prompt(fresh):
    """The first answer token's probability is the one that the backbone's prefill gives it."""
    asked = streetsqa.book("train", 3)[0].questions[0]
    picture = torch.randn(20, fresh.model.config.text_config.hidden_size) * 0.05
    answer = fresh.tokenizer.encode(asked.truth + STOP).ids
    with torch.no_grad():
        loss, _ = answer_loss(fresh.model, fresh.tokenizer, [picture], [[asked]])
        prompt = fresh.prompt([picture], asked.question)
        read = torch.cat((prompt, fresh.model.get_input_embeddings()(torch.tensor(answer[:1]))))
        logits = fresh.model(inputs_embeds=read[None]).logits[0, -2:]
    assert float(loss) == pytest.approx(
        float(torch.nn.functional.cross_entropy(logits, torch.tensor(answer))), rel=5e-3
    )


@pytest.mark.slow
def test_the_recipe_learns_from_nothing(fresh, tmp_path):
    """A few steps of each stage, from seeds, reduce its loss; a stage that is done is read back, not run again."""
    torch.manual_seed(0)
    vision_tower = fresh.model.model.vision_tower
    stage = tower.ProbedTower(vision_tower)
    pixels, classes = next(iter(TileBatches(4, 0)))

    def dense(first):
        return (stage.loss(tower.encode(vision_tower, pixels), classes) for _ in itertools.count(first))

    losses = stages.train("tower", tmp_path, stage, {"": 1e-3}, 16, dense)
    assert len(losses) == 16
    assert np.mean(losses[-3:]) < 0.9 * np.mean(losses[:3])
    assert stages.train("tower", tmp_path, stage, {"": 1e-3}, 16, dense) == []

    page = glimpseqa.book("train", 3)[0]
    with torch.inference_mode():
        y_PCD = merge(tower.encode(vision_tower, TILING(page.scene().image).pixels_PCHW), 6).y_PCD

    def lessons(first):
        projector = fresh.model.model.multi_modal_projector
        for _ in itertools.count(first):
            yield answer_loss(fresh.model, fresh.tokenizer, [projector(y_PCD.clone().flatten(0, 1))], [page.questions])

    losses = stages.train("answers", tmp_path, fresh.model, {"model.language_model": 1e-3}, 16, lessons)
    assert np.mean(losses[-3:]) < 0.7 * np.mean(losses[:3])


def test_a_resumed_stage_ends_as_an_uninterrupted_one(tmp_path, monkeypatch):
    """Killed after some steps and run again, a stage ends with the weights of an uninterrupted run."""
    monkeypatch.setattr(stages, "_SAVE_EVERY_STEPS", 4)

    def run(folder, stop_at):
        torch.manual_seed(1)
        module = torch.nn.Linear(3, 2)

        def losses(first):
            for step in itertools.count(first):
                if step == stop_at:
                    raise KeyboardInterrupt
                x = torch.from_numpy(np.random.default_rng(step).normal(size=(5, 3)).astype(np.float32))
                yield module(x).square().mean(), 0.0

        stages.train("stage", folder, module, {"": 1e-2}, 10, losses)
        return module.state_dict()

    whole = run(tmp_path / "whole", None)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "stopped", 6)
    for name, tensor in run(tmp_path / "stopped", None).items():
        torch.testing.assert_close(tensor, whole[name])


def test_training_targets_are_judged_right():
    """The training targets are right by the benchmark's own rules, and would be wrong for another truth."""
    pages = streetsqa.book("train", 5)[:20] + glimpseqa.book("train", 5)
    for page in pages:
        for plain, spelt in zip(page.questions, (spelt_out(one, page.street) for one in page.questions), strict=True):
            assert judge(plain.question, plain.truth, spelt.truth)
            assert spelt.truth.rsplit(" ", 1)[1] == plain.truth
            other = {"Yes": "No", "No": "Yes", "A": "B"}.get(plain.truth, "A")
            assert not judge(plain.question, other, spelt.truth)


def test_pictures_in_words_hold_everything_that_stands_in_the_street():
    """A street has one row for each thing, among empty rows."""
    tokenizer, embed = make_tokenizer(), torch.nn.Embedding(576, 32)
    for number, page in enumerate(streetsqa.book("train", 6)[:10]):
        street = page.street
        named = symbols.words(street)
        assert len(named) == len(street.cars) + len(street.items) + 4
        rows = symbols.picture(street, SeededRandom("words", number), tokenizer, embed)
        assert int((rows.norm(dim=1) > 1).sum()) == len(named)


@pytest.mark.slow
def test_a_line_of_lookups_is_right_about_everything_seen():
    """A value is followed by its option's letter, or by whether it is the value that the question names."""
    tokenizer = make_tokenizer()
    kinds = set()
    for number in range(60):
        tokens, targets = lookup.line(tokenizer, SeededRandom("line", number))
        assert len(tokens) == len(targets)
        for place, target in enumerate(targets[:-1]):
            assert target in (-100, tokens[place + 1])
        prompt, _, said = tokenizer.decode(tokens, skip_special_tokens=False).partition("assistant\n")
        pairs = [pair.strip().rsplit(" ", 1) for pair in said.split(STOP)[:-1]]
        assert len(pairs) == 4
        kinds.add("\nOptions:" in prompt)
        for seen, verdict in pairs:
            if "\nOptions:" in prompt:
                assert f"\n{verdict}. {seen}\n" in prompt
            elif "Not counting" in prompt:
                assert (verdict == "Yes") == (glimpseqa.COUNTS[int(seen)] in prompt)
            elif "side of the road" in prompt:
                assert (verdict == "Yes") == (f"the {seen.rsplit(' ', 1)[1]} side" in prompt)
            elif "Is there a " in prompt:
                assert (verdict == "Yes") != seen.endswith(NOWHERE)
            else:
                assert (verdict == "Yes") == any(
                    f" {verb}{seen}?" in prompt for verb in ("bus ", "pedestrian ", "show ", "sign ")
                )
    assert kinds == {True, False}


@pytest.mark.slow
def test_merged_features_are_cached_once(fresh, tmp_path, monkeypatch):
    """A book's pictures are encoded and merged into one file, which the next run reads."""
    pages = streetsqa.book("train", 0)[:2]
    monkeypatch.setattr(features, "book_of", lambda _: pages)
    features.cache_books(fresh.model.model.vision_tower, tmp_path, 1, workers=1)
    monkeypatch.setattr(features, "encode", lambda *_: pytest.fail("was encoded again"))
    features.cache_books(fresh.model.model.vision_tower, tmp_path, 1, workers=1)
    lessons = features.Lessons(tmp_path, 1)
    page, y_PCD = lessons.draw(SeededRandom("any"))
    assert len(lessons) == 2
    assert page in pages
    n_h, n_w = TILING.grid(page.street.height_px, page.street.width_px)
    assert y_PCD.shape[0] == n_h * n_w + 1
    assert y_PCD.shape[1] in {features.CLUSTERS, *features.OTHER_CLUSTERS}
    assert camera_file(page.scene())[:2] == b"\xff\xd8"
