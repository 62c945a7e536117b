"""LoRA on a tiny OneVision: attached, saved, and loaded again part by part, in a copy or beside shared weights."""

import copy
import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from harness.errors import CheckpointError
from harness.models import adapter
from harness.models.adapter import Lora
from harness.models.contract import Layout, Part, Tiles
from harness.models.family import whole_parts
from harness.models.loading import LlavaModels
from harness.models.onevision import OneVision, load
from harness.profiling.resources import weights_bytes
from tests.small_models import make_backbone, save

TILES = Tiles(torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1)), Layout((1, 1), (32, 32)))
PARTS: tuple[Part, ...] = ("tower", "language")


def train(folder: Path, seed: int = 2, rank: int = 4) -> OneVision:
    """A backbone with an adapter that is not zero, saved in ``folder``."""
    backbone = make_backbone()
    model = adapter.attach(backbone, rank, 8, 0.0)
    torch.manual_seed(seed)
    for parameter in adapter.trainable(model).values():
        parameter.data += 0.05 * torch.randn_like(parameter)
    model.eval()
    adapter.halve(model)
    adapter.save(model, folder, "mini-onevision")
    return backbone


@pytest.fixture
def trained(tmp_path: Path) -> tuple[OneVision, Path]:
    """A backbone with an adapter, and the folder in which it was saved."""
    return train(tmp_path / "adapter"), tmp_path / "adapter"


@pytest.fixture(scope="module")
def plain_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of the backbone without an adapter."""
    return save(make_backbone(), tmp_path_factory.mktemp("plain"))


@pytest.fixture
def models(plain_folder: Path) -> LlavaModels:
    """The parts of the backbone without an adapter, none of them loaded."""
    return load("mini-onevision", weights=plain_folder)


def read(folder: Path, models: LlavaModels) -> None:
    """Loads the adapter of both sides."""
    models.vision(folder)
    models.language(folder)


def run(part: Part, module: torch.nn.Module) -> torch.Tensor:
    """A part's output on a fixed random input."""
    generator = torch.Generator().manual_seed(5)
    with torch.inference_mode():
        if part == "tower":
            return module(torch.randn(2, 3, 32, 32, generator=generator), output_hidden_states=True).hidden_states[-1]
        x_1TH = torch.randn(1, 7, 32, generator=generator)
        return module.get_submodule("lm_head")(module.get_submodule("model")(inputs_embeds=x_1TH)[0])


def test_lora_is_where_the_paper_has_it() -> None:
    """Every linear map of tower and language model, the projector whole, nothing else; as it begins nothing changes."""
    backbone, plain = make_backbone(), make_backbone()
    names = adapter.trainable(adapter.attach(backbone, 4, 8, 0.0))
    assert sum(p.numel() for p in names.values()) == adapter.size(plain, 4)
    assert len(names) == 2 * (6 * 2 + 7 * 2) + 4
    assert {adapter.part_of(name) for name in names} == {"vision", "language", "projector"}
    assert torch.equal(backbone.encode(TILES), plain.encode(TILES))
    assert torch.equal(backbone.project(plain.encode(TILES)), plain.project(plain.encode(TILES)))


@pytest.mark.slow
@pytest.mark.parametrize("small", [True, False], ids=["merged copy", "shared weights"])
def test_a_trained_adapter_is_loaded_and_the_backbone_is_unchanged(
    models: LlavaModels, trained: tuple[OneVision, Path], small: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In both ways features, tokens and answers are the trained ones, and the backbone's own are unchanged."""
    if not small:
        monkeypatch.setattr(adapter, "_COPIED_BELOW_BYTES", 0)
    tuned, folder = trained
    plain = make_backbone()
    x_PVD = plain.encode(TILES)
    for _ in range(2):
        vision, language = models.vision(folder), models.language(folder)
        with vision._lora.on() if vision._lora else torch.inference_mode():
            found_PVD = vision.encode(TILES)
        torch.testing.assert_close(found_PVD, tuned.encode(TILES), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(language.project(x_PVD), tuned.project(x_PVD), rtol=1e-4, atol=1e-5)
        assert (vision.name, vision.n_features) == ("mini-onevision", plain.n_features)
        assert not torch.allclose(found_PVD, x_PVD, atol=1e-3)
        assert torch.equal(models.vision().encode(TILES), x_PVD)
        assert torch.equal(models.language().project(x_PVD), plain.project(x_PVD))


@pytest.mark.slow
@pytest.mark.parametrize("part", PARTS)
def test_merged_is_pefts_merge_and_unload_to_the_bit(part: Part, trained: tuple[OneVision, Path]) -> None:
    """Every weight of the copy is the one that peft's merged model has; the original keeps its own."""
    _, folder = trained
    with adapter._peft():
        theirs = PeftModel.from_pretrained(make_backbone().model, str(folder)).merge_and_unload()
    wanted = dict(whole_parts(theirs)[part].named_parameters())
    module = whole_parts(make_backbone().model)[part]
    before = copy.deepcopy(module.state_dict())
    found = Lora.read(folder, part, module, "tiny").merged(module)
    assert all(torch.equal(parameter, wanted[name]) for name, parameter in found.named_parameters())
    assert not all(torch.equal(tensor, before[name]) for name, tensor in found.state_dict().items())
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


@pytest.mark.slow
@pytest.mark.parametrize("part", PARTS)
def test_an_adapter_beside_weights_computes_as_pefts_does(part: Part, trained: tuple[OneVision, Path]) -> None:
    """While it is on, a part computes what peft's unmerged model does, up to rounding; off, what it did before."""
    tuned, folder = trained
    module = whole_parts(make_backbone().model)[part]
    plain = run(part, module)
    lora = Lora.read(folder, part, module, "tiny").beside(module)
    assert torch.equal(run(part, module), plain)
    with lora.on():
        found = run(part, module)
    wanted = run(part, whole_parts(tuned.model)[part])
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(found, plain, atol=1e-2)
    assert torch.equal(run(part, module), plain)


def test_an_adapter_beside_weights_takes_their_dtype(trained: tuple[OneVision, Path]) -> None:
    """In half precision it holds half of what it was read as, and that is what a half is said to need."""
    _, folder = trained
    module = whole_parts(make_backbone().model)["tower"].bfloat16()
    lora = Lora.read(folder, "tower", module, "tiny")
    plain, as_read = weights_bytes(module), weights_bytes(lora)
    lora.beside(module)
    assert weights_bytes([module, lora]) == plain + as_read // 2


@pytest.mark.slow
def test_adapters_beside_the_same_weights_do_not_disturb_each_other(
    models: LlavaModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three points of one process, of different ranks, each compute what they would alone, in any order."""
    monkeypatch.setattr(adapter, "_COPIED_BELOW_BYTES", 0)
    folders = [tmp_path / str(seed) for seed in range(3)]
    tuned = [train(folder, seed, rank) for seed, (folder, rank) in enumerate(zip(folders, (4, 2, 4), strict=True))]
    sides = [models.vision(folder) for folder in folders]
    assert len({id(side.vision_tower) for side in (*sides, models.vision())}) == 1
    for place in (0, 1, 2, 1, 0):
        lora = sides[place]._lora
        assert lora is not None
        with lora.on():
            found_PVD = sides[place].encode(TILES)
        torch.testing.assert_close(found_PVD, tuned[place].encode(TILES), rtol=1e-4, atol=1e-5)
    assert torch.equal(models.vision().encode(TILES), make_backbone().encode(TILES))


def test_an_adapter_of_another_model_is_refused(
    trained: tuple[OneVision, Path], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The first weight that does not fit is named with all shapes, on either side."""
    other = load("mini-onevision", weights=save(make_backbone(width=48), tmp_path_factory.mktemp("wide")))
    with pytest.raises(CheckpointError, match=r"has factors of .* in the adapter, and its weight .* in mini-onevision"):
        other.vision(trained[1])
    with pytest.raises(CheckpointError, match=r"has shape .* in the adapter and .* in mini-onevision; it was trained"):
        other.language(trained[1])


def test_an_adapter_of_more_layers_is_refused(
    trained: tuple[OneVision, Path], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A model with fewer layers than the adapter would load only a part of it."""
    other = load("mini-onevision", weights=save(make_backbone(layers=1), tmp_path_factory.mktemp("shallow")))
    with pytest.raises(CheckpointError, match=r"tensors that the tower of mini-onevision has no place for"):
        other.vision(trained[1])


@pytest.mark.slow
def test_damaged_and_pickled_adapters_are_refused(models: LlavaModels, trained: tuple[OneVision, Path]) -> None:
    """Only complete safetensors files are read."""
    weights = trained[1] / "adapter_model.safetensors"
    whole = weights.read_bytes()
    tensors = {name: tensor.clone() for name, tensor in load_file(weights).items()}
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=r"adapter_model\.safetensors: holds no readable adapter"):
        models.vision(trained[1])
    torch.save(tensors, weights.with_suffix(".bin"))
    weights.unlink()
    for side in (models.vision, models.language):
        with pytest.raises(CheckpointError, match=r"adapter_model\.safetensors: holds no readable adapter"):
            side(trained[1])


@pytest.mark.slow
@pytest.mark.parametrize("part", ["vision_tower", "language_model", "multi_modal_projector"])
def test_a_weight_that_is_missing_is_named(models: LlavaModels, trained: tuple[OneVision, Path], part: str) -> None:
    """An adapter without one of its tensors is not loaded in part."""
    weights = trained[1] / "adapter_model.safetensors"
    tensors = load_file(weights)
    tensors.pop(next(name for name in sorted(tensors) if part in name))
    save_file(tensors, weights)
    with pytest.raises(CheckpointError, match=r"lacks 1 tensors of the|has shape None in the adapter"):
        read(trained[1], models)


MORE = [
    ({"use_dora": True}, "use_dora is True; a plain LoRA"),
    ({"use_rslora": True}, "use_rslora is True; a plain LoRA"),
    ({"rank_pattern": {"q_proj": 2}}, "rank_pattern is .*; a plain LoRA"),
    ({"alpha_pattern": {"q_proj": 2}}, "alpha_pattern is .*; a plain LoRA"),
    ({"fan_in_fan_out": True}, "fan_in_fan_out is True; a plain LoRA"),
    ({"lora_bias": True}, "lora_bias is True; a plain LoRA"),
    ({"layer_replication": [[0, 1], [0, 2]]}, "layer_replication is .*; a plain LoRA"),
    ({"alora_invocation_tokens": [5]}, "alora_invocation_tokens is .*; a plain LoRA"),
    ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa', which may have changed the base's weights"),
    ({"init_lora_weights": "pissa_niter_16"}, "init_lora_weights is 'pissa_niter_16', which may have changed"),
    ({"init_lora_weights": "olora"}, "init_lora_weights is 'olora', which may have changed"),
    ({"init_lora_weights": ["pissa"]}, "init_lora_weights is .*, which may have changed"),
    ({"bias": "all"}, "bias is 'all'; a plain LoRA"),
    ({"peft_type": "ADALORA"}, "peft_type is 'ADALORA'; LORA is expected"),
    ({"peft_type": None}, "peft_type is None; LORA is expected"),
    ({"r": 0}, "r is 0; a whole number from 1 on"),
    ({"r": True}, "r is True; a whole number from 1 on"),
    ({"r": 5}, r"has factors of rank 4, and adapter_config.json says r = 5"),
    ({"lora_alpha": "8"}, "lora_alpha is '8'"),
    ({"lora_alpha": float("nan")}, "lora_alpha is nan"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("changes", "sentence"), MORE, ids=[str(changes) for changes, _ in MORE])
def test_what_is_more_than_a_plain_lora_is_refused(
    models: LlavaModels, trained: tuple[OneVision, Path], changes: dict[str, object], sentence: str
) -> None:
    """It would be computed wrong silently."""
    path = trained[1] / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    for side in (models.vision, models.language):
        with pytest.raises(CheckpointError, match=sentence) as refusal:
            side(trained[1])
        assert str(trained[1]) in str(refusal.value)
        assert "\n" not in str(refusal.value)


@pytest.mark.slow
@pytest.mark.parametrize("text", ["[]", "{", '{"peft_type": ' + "[" * 100_000], ids=["list", "cut", "deep"])
def test_a_damaged_adapter_config_is_refused(models: LlavaModels, trained: tuple[OneVision, Path], text: str) -> None:
    """JSON of another kind, cut off, or too deep."""
    (trained[1] / "adapter_config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"adapter_config\.json: "):
        models.vision(trained[1])
