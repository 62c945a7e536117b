"""The bundled points: those that the scenarios name, trained around the bundled backbone, and small."""

import hashlib
import shutil
from pathlib import Path

import pytest

from baselines.ablations.schemes import DISTORTION, POINT, PROJECTOR, WEIGHTS, adapter_of
from baselines.ablations.trained import trained_around
from harness.catalog import ZOO
from harness.errors import CheckpointError
from harness.models.onevision import load as load_models
from harness.scenario.load import load
from recipes.ablations import FIG_12, TABLE_1

SCENARIOS = Path(__file__).parents[3] / "scenarios"


@pytest.mark.parametrize("name", ["ablation_entropy", "ablation_merging"])
def test_scenarios_name_points_that_the_recipe_makes(name: str) -> None:
    """Each group has its own TOFC, at the same points as the ablations of it."""
    known = {scheme.kind: set(points) for scheme, points in FIG_12.items()}
    if name == "ablation_merging":
        known = {scheme.kind: {DISTORTION} for scheme in TABLE_1}
    scenario = load(SCENARIOS / f"{name}.yaml")
    ablations = [spec for spec in scenario.pipelines if spec.scheme in known]
    others = {spec.scheme for spec in scenario.pipelines} - set(known)
    assert others <= {"server_only", "raw_features"}
    assert len(ablations) >= 4
    shares = []
    for spec in ablations:
        points = list(spec.operating_points(stand_in=True))
        assert {point.codec for point in points} <= known[spec.scheme]
        shares.append({point.merge_to for point in points})
    assert all(of_scheme == shares[0] for of_scheme in shares)


def test_bundled_points_are_of_the_bundled_backbone() -> None:
    """A newly trained backbone makes them stale, and the recipe makes them again; together they are below 14 MB."""
    folders = [path.parent for marker in (PROJECTOR, POINT) for path in WEIGHTS.rglob(marker)]
    for folder in folders:
        backbone = folder.parents[1].name
        here = hashlib.sha256((ZOO / backbone / "model.safetensors").read_bytes()).hexdigest()
        assert trained_around(folder)[0] == here, f"{folder} is stale: python -m recipes.ablations"
    assert sum(file.stat().st_size for file in WEIGHTS.rglob("*") if file.is_file()) < 14_000_000


@pytest.mark.parametrize("point", ["tofc_selective/lambda-0.2", "qformer/distortion"])
def test_a_point_of_the_recipe_needs_the_weights_that_it_was_trained_around(tmp_path: Path, point: str) -> None:
    """Whether it has a projector or an adapter: others of the same shapes would load, and answer wrongly."""
    bundled = WEIGHTS / "mini-onevision" / point
    adapter_of(bundled, load_models("mini-onevision"), ("tower",))
    shutil.copytree(ZOO / "mini-onevision", tmp_path / "others")
    with (tmp_path / "others" / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x11")
    with pytest.raises(CheckpointError, match=f"{point}: was trained around a model.safetensors whose digest is "):
        adapter_of(bundled, load_models("mini-onevision", weights=tmp_path / "others"), ("tower",))
