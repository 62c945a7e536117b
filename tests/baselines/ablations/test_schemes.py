"""Every ablation, trained for a few steps, as a scheme of the harness; and the recipe that makes them."""

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch

from baselines.ablations import schemes
from baselines.ablations.qformer import QFormer
from baselines.ablations.schemes import (
    DISTORTION,
    TABLE_1_CLUSTERS,
    Ablation,
    Factorized,
    Heuristic,
    QFormerQueries,
    Selective,
    Single,
    Unmerged,
)
from harness import catalog
from harness.data.streetsqa import book
from harness.errors import CheckpointError, UnavailableError
from harness.models import adapter
from harness.models.llava import Llava
from harness.models.loading import LlavaModels
from harness.models.onevision import load
from harness.schemes.tofc import TofcPoint
from harness.training import bundled
from harness.training.bundled import book_of
from recipes import ablations as training
from recipes import compare_ablations as comparison
from recipes.ablations import (
    FIG_12,
    OF_FIG_12,
    OF_TABLE_1,
    TABLE_1,
    Lesson,
    drawn_lessons,
    merged_lessons,
    train_point,
    train_reduced,
)
from tests.one_request import answers_from_its_stream

# Every test needs the points that a fixture trains.
pytestmark = pytest.mark.slow

TINY = dataclasses.replace(OF_FIG_12, steps=2, pictures=2, asked=2)
TINY_REDUCED = dataclasses.replace(OF_TABLE_1, steps=1, pictures=1, asked=2)
ALL = [(scheme, points[0]) for scheme, points in FIG_12.items()] + [(scheme, DISTORTION) for scheme in TABLE_1]


@pytest.fixture(scope="module")
def backbone(models: LlavaModels) -> Llava:
    """The whole backbone."""
    return models.backbone()


@pytest.fixture(scope="module")
def kept(backbone: Llava) -> list[Lesson]:
    """Four pages, merged."""
    return merged_lessons(backbone, book("train", 900_000)[:4])


@pytest.fixture(scope="module")
def drawn(backbone: Llava) -> list[Lesson]:
    """A page as pixels."""
    return drawn_lessons(backbone, book("train", 900_000)[:1])


@pytest.fixture(scope="module")
def weights(backbone: Llava, kept: list[Lesson], drawn: list[Lesson], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like the bundled one, with the first point of every scheme in each group."""
    folder = tmp_path_factory.mktemp("weights")
    around = hashlib.sha256((catalog.ZOO / backbone.name / "model.safetensors").read_bytes()).hexdigest()
    for scheme, point in ALL:
        place = folder / backbone.name / scheme.kind / point
        if point == DISTORTION:
            train_reduced(load("mini-onevision").backbone(), drawn, scheme, TINY_REDUCED).save(place, around)
        else:
            train_point(backbone, kept, scheme, point, TINY).save(place, around)
    return folder


@pytest.fixture(autouse=True)
def _found_there(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schemes, "WEIGHTS", weights)


@pytest.mark.parametrize(("scheme", "name"), ALL)
def test_every_ablation_answers_from_its_stream(models: LlavaModels, scheme: type[Ablation], name: str) -> None:
    """Its stages are TOFC's, it has the requested number of tokens, and damage to its stream is a BitstreamError."""
    assert catalog.load("scheme", scheme.kind, catalog.SCHEMES) is scheme
    point = TofcPoint(codec=name, merge_to=0.02)
    answers_from_its_stream(scheme, models, point, n_clusters=3)


def test_every_point_of_a_group_spends_the_same(backbone: Llava, kept: list[Lesson], drawn: list[Lesson]) -> None:
    """As many optimiser's steps, and the same draws of pages and questions, whichever part is replaced."""
    taught: list[tuple[str, list[str]]] = []
    plain = bundled.answer_loss

    def noted(model: Any, tokenizer: Any, pictures: Any, asked: Any) -> Any:
        taught.append((name, [one.question.text for of_picture in asked for one in of_picture]))
        return plain(model, tokenizer, pictures, asked)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "answer_loss", noted)
        for scheme in (Selective, Factorized, Heuristic):
            name = scheme.kind
            train_point(backbone, kept, scheme, FIG_12[scheme][0], TINY)
        for reduced in (Unmerged, QFormerQueries):
            name = f"{reduced.kind} {DISTORTION}"
            train_reduced(load("mini-onevision").backbone(), drawn, reduced, TINY_REDUCED)
    lists = {name: [asked for of, asked in taught if of == name] for name, _ in taught}
    first, second, third, unmerged, qformer = lists.values()
    assert first == second == third
    assert len(first) == TINY.steps
    assert unmerged == qformer
    assert len(unmerged) == TINY_REDUCED.steps


def test_training_moves_the_projector_and_leaves_the_backbone(backbone: Llava, kept: list[Lesson]) -> None:
    """A point of Fig. 12 trains codec and projector; the frozen rest, and the backbone's own projector, stay."""
    before = {name: tensor.clone() for name, tensor in backbone.model.state_dict().items()}
    found = train_point(backbone, kept, Single, "lambda-0.2", TINY)
    assert all(torch.equal(tensor, before[name]) for name, tensor in backbone.model.state_dict().items())
    assert not torch.equal(
        *(projector.get_parameter("linear_1.weight") for projector in (found.projector, backbone.projector))
    )


def test_a_point_of_table_1_trains_tower_language_model_projector_and_queries(drawn: list[Lesson]) -> None:
    """By the answers alone: every part of the adapter moves, and what is learned of the reducer."""
    fresh = load("mini-onevision").backbone()
    torch.manual_seed(0)
    start = QFormerQueries.new_reducer(fresh.feature_dim, TABLE_1_CLUSTERS)
    found = train_reduced(fresh, drawn, QFormerQueries, TINY_REDUCED)
    assert isinstance(start, torch.nn.Module)
    assert isinstance(found.reducer, QFormer)
    assert found.reducer.config.queries == TABLE_1_CLUSTERS
    assert not torch.equal(found.reducer.get_parameter("queries_CH"), start.get_parameter("queries_CH"))
    moved = {adapter.part_of(name): p for name, p in adapter.trainable(found.peft).items() if "lora_B" in name}
    assert all(p.abs().max() > 0 for p in moved.values())
    assert set(moved) == {"vision", "language"}


def test_the_same_seed_gives_the_same_point(backbone: Llava, kept: list[Lesson]) -> None:
    """Whatever was trained before it; another seed gives another."""
    first, again = (train_point(backbone, kept, Selective, "lambda-0.2", TINY) for _ in range(2))
    assert first.codec.frozen.digest == again.codec.frozen.digest
    assert (
        train_point(backbone, kept, Selective, "lambda-0.2", TINY, seed=1).codec.frozen.digest
        != first.codec.frozen.digest
    )


def test_an_unknown_point_lists_the_known_ones(models: LlavaModels) -> None:
    """A scenario that names an untrained point is refused, and the message lists the trained ones."""
    sentence = r"tofc_heuristic: unknown codec 'bits-9'; did you mean 'bits-3'\? known: bits-3"
    for half in (Heuristic.device_half, Heuristic.server_half):
        with pytest.raises(UnavailableError, match=sentence):
            half(models, TofcPoint(codec="bits-9", merge_to=0.02))


def both_halves(scheme: type[Ablation], name: str) -> None:
    """Makes the halves of a point, around a backbone that has not loaded it before."""
    models, point = load("mini-onevision"), TofcPoint(codec=name, merge_to=0.02)
    scheme.device_half(models, point)
    scheme.server_half(models, point)


@pytest.mark.parametrize(("scheme", "name"), [(QFormerQueries, DISTORTION), (Single, FIG_12[Single][0])])
def test_a_damaged_point_is_refused(weights: Path, scheme: type[Ablation], name: str) -> None:
    """Each of its files in turn, by its name."""
    folder = weights / "mini-onevision" / scheme.kind / name
    for path in sorted(file for file in folder.rglob("*") if file.is_file() and file.name != schemes.POINT):
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(CheckpointError, match=path.name):
            both_halves(scheme, name)
        path.write_bytes(whole)


def test_the_recipe_makes_what_is_missing_and_nothing_twice(
    backbone: Llava, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A second run finds them; of another seed they are trained again, and a card has those of its own run alone."""
    monkeypatch.setattr(
        training, "FIG_12", {Single: ("lambda-0.2",), Selective: ("lambda-0.2",), Heuristic: ("bits-3",)}
    )
    monkeypatch.setattr(training, "TABLE_1", (Unmerged,))
    monkeypatch.setattr(training, "_HELD_OUT", 1)
    steps = ["--pictures", "2", "--steps", "1"]
    training.main(["--out", str(tmp_path), "--only", "tofc_single/lambda-0.2", *steps])
    training.main(["--out", str(tmp_path), *steps])
    training.main(["--out", str(tmp_path), *steps])
    training.main(["--out", str(tmp_path), "--only", "tofc_unmerged/distortion", *steps, "--seed", "1"])
    lines = [line for line in capsys.readouterr().out.splitlines() if "to be trained" in line]
    assert lines == [
        "1 of 1 points are to be trained",
        "3 of 4 points are to be trained",
        "0 of 4 points are to be trained",
        "1 of 1 points are to be trained",
    ]
    card = (tmp_path / "card.md").read_text()
    assert "(seed 1, 2 pictures to learn from" in card
    assert "Points named `distortion`: tofc_unmerged." in card
    assert "1 steps of 4 pictures" in card
    assert not [line for line in card.splitlines() if "| lambda-" in line or "| bits-" in line]
    training.main(["--out", str(tmp_path), "--only", "tofc_single/lambda-0.2", *steps])
    card = (tmp_path / "card.md").read_text()
    assert "(seed 0, 2 pictures to learn from" in card
    assert [line.split("|")[1].strip() for line in card.splitlines() if "lambda-" in line or "bits-" in line] == [
        "tofc_single",
        "tofc_selective",
        "tofc_heuristic",
    ]
    assert "Points named `distortion`: none yet." in card


def test_points_are_compared_on_the_same_pages(models: LlavaModels) -> None:
    """Each through its own halves; a point differs from itself by nothing, from another by the pages' mean."""
    found = [
        comparison.measured(models, scheme, name, n_c, pages=2)
        for scheme, name, n_c in (
            (Selective, FIG_12[Selective][0], 3),
            (Heuristic, FIG_12[Heuristic][0], 3),
            (Single, DISTORTION, TABLE_1_CLUSTERS),
            (Unmerged, DISTORTION, TABLE_1_CLUSTERS),
        )
    ]
    vision = models.vision()
    n_patches = len(vision.preprocess(book_of(comparison.FIRST_BOOK)[0].scene().image).pixels_PCHW)
    header, halves = 20, 2 * n_patches * TABLE_1_CLUSTERS * vision.feature_dim
    assert [row.of_pictures[0][0] for row in found[2:]] == [header + halves] * 2
    assert all(0 < row.of_pictures[0][1] < 10 for row in found)
    pages_a, pages_b = ((9, 0.5), (8, 0.3)), ((9, 0.4), (8, 0.1))
    a, b = (comparison.Row("x", "y", 3, 0, pages, (72, 32)) for pages in (pages_a, pages_b))
    itself, other, paired = (comparison.over_common_seeds([a], rows) for rows in ([a], [b], [b._replace(seed=1), b]))
    assert itself is not None
    assert itself[:3] == (0, 0, 0)
    assert other is not None
    assert other.value == pytest.approx(0.15)
    assert paired is not None
    assert paired.seeds == 1
    assert comparison.objective(a, 0.5) == pytest.approx([0.5 + 0.5, 0.3 + 1])
    text = comparison.report(found)
    assert "| tofc_heuristic | bits-3 | 3 |" in text
    assert "| tofc_single | 4 |" in text
