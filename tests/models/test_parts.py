"""A checkpoint's parts, read separately: transformers' own, from no more files and bytes than needed.

The checkpoints are random models of a few thousand weights, under the names of transformers before 5.0 and after.
"""

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import LlavaOnevisionForConditionalGeneration

from harness.errors import CheckpointError, UnavailableError
from harness.models import checkpoint, files, onevision
from harness.models.contract import Part, Sharing, Untimed
from harness.models.family import whole_parts
from harness.models.llava import LlavaVision
from harness.models.loading import LlavaModels
from tests.small_models import FAMILIES, make_backbone, stored, write

CHANGED = {
    "tower": ("encoder.layers.1.mlp.fc1.weight", "encoder.layer.1.mlp.fc1.weight"),
    "projector": ("multi_modal_projector.linear_2.bias", "multi_modal_projector.mm_input_projection_weight"),
    "language": ("language_model.norm.weight",),
}
"""A tensor of each part, by how its name ends."""
STORED = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


LAYOUTS = [
    # Each type with both families, and with and without each of the others.
    *(
        (*layout, dtype)
        for layout, dtype in zip(
            itertools.product(("onevision", "llava15"), *[(False, True)] * 3), itertools.cycle(STORED), strict=False
        )
    ),
    *(
        (family, old, old, tied, "bf16")
        for family in ("internvl", "gemma3")
        for old, tied in ((True, False), (False, True))
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize(("family", "old", "sharded", "tied", "dtype"), LAYOUTS)
def test_parts_are_those_that_transformers_reads(
    tmp_path: Path, family: str, old: bool, sharded: bool, tied: bool, dtype: str
) -> None:
    """Tower, projector and language model, each read alone, have every weight of from_pretrained's, to the bit."""
    stored(tmp_path, family, old=old, sharded=sharded, dtype=STORED[dtype], tied=tied)
    _, kind, load, name = FAMILIES[family]
    theirs, info = kind.from_pretrained(tmp_path, dtype=torch.float32, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    for part, wanted in whole_parts(theirs).items():
        found = load(name, weights=tmp_path)._module(part)
        ours = dict(found.named_parameters(remove_duplicate=False))
        assert ours.keys() == dict(wanted.named_parameters(remove_duplicate=False)).keys()
        for parameter, tensor in wanted.named_parameters(remove_duplicate=False):
            assert torch.equal(ours[parameter], tensor), parameter
        for buffer, values in wanted.named_buffers():
            assert torch.equal(found.get_buffer(buffer), values), buffer
        assert not found.training
    language = load(name, weights=tmp_path)._module("language")
    assert (language.lm_head.weight is language.model.embed_tokens.weight) == tied


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_the_parts_together_are_the_whole(tmp_path: Path, family: str) -> None:
    """The model that training takes has the parts' weights, and each part's fingerprint is known without loading it."""
    stored(tmp_path, family, dtype=torch.float16)
    _, _, load, name = FAMILIES[family]
    models: LlavaModels = load(name, weights=tmp_path)
    backbone = models.backbone()
    for part, module in whole_parts(backbone.model).items():
        alone = dict(models._module(part).named_parameters())
        assert all(torch.equal(alone[parameter], tensor) for parameter, tensor in module.named_parameters())
        assert backbone.fingerprints()[part] == models.fingerprint(part) == checkpoint.fingerprint(models._module(part))


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_fingerprint_is_of_weights_and_not_of_files(tmp_path: Path, family: str) -> None:
    """Old or new names, shards or one file: the same; another weight in a part changes that part's alone."""
    for number, (old, sharded) in enumerate([(False, False), (True, True)]):
        (tmp_path / str(number)).mkdir()
        weights = stored(tmp_path / str(number), family, old=old, sharded=sharded, dtype=torch.bfloat16)
    found = [{part: files.fingerprint(tmp_path / n, part) for part in files.PARTS} for n in ("0", "1")]
    assert found[0] == found[1]
    assert len(set(found[0].values())) == 3
    for part, endings in CHANGED.items():
        (key,) = [name for name in weights if name.endswith(endings)]
        folder = shutil.copytree(tmp_path / "0", tmp_path / part)
        write(folder, {**weights, key: weights[key] + 1}, sharded=False)
        after = {part: files.fingerprint(folder, part) for part in files.PARTS}
        assert {name for name in after if after[name] != found[0][name]} == {part}


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> dict[str, set[str]]:
    """The tensors that were read, by the file that they were read from."""
    read: dict[str, set[str]] = {}

    class Noted:
        def __init__(self, path, **options):
            self._file = safe_open(path, **options)
            self._read = read.setdefault(Path(path).name, set())

        def __enter__(self):
            self._file.__enter__()
            return self

        def __exit__(self, *raised):
            return self._file.__exit__(*raised)

        def get_tensor(self, key):
            self._read.add(key)
            return self._file.get_tensor(key)

    monkeypatch.setattr(checkpoint, "safe_open", Noted)
    return read


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_vision_side_reads_the_tower_alone(tmp_path: Path, family: str, opened: dict[str, set[str]]) -> None:
    """Every tensor of the tower and none of the others; shards without one may be absent, or no safetensors at all."""
    stored(tmp_path, family)
    _, _, load, name = FAMILIES[family]
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())["weight_map"]
    of_tower = {file for key, file in index.items() if key.startswith("vision_tower")}
    others = sorted(set(index.values()) - of_tower)
    assert len(others) >= 2
    (tmp_path / others[0]).unlink()
    (tmp_path / others[1]).write_bytes(b"\xff" * 100)
    models = load(name, weights=tmp_path)
    assert callable(models.vision().encode)
    assert set(opened) == of_tower
    assert set().union(*opened.values()) == {key for key in index if key.startswith("vision_tower")}
    assert models.fingerprint("tower")
    with pytest.raises(CheckpointError, match="its weights cannot be read"):
        models.language()


def test_a_language_side_reads_no_tower_and_another_engine_no_layer(
    tmp_path: Path, opened: dict[str, set[str]]
) -> None:
    """Behind another engine the embedding table and the projector are all that is read."""
    stored(tmp_path, "onevision")
    models = onevision.load("llava-onevision-7b", weights=tmp_path)
    models.language()
    assert not any(key.startswith("vision_tower") for keys in opened.values() for key in keys)
    opened.clear()

    class Echo:
        def answer(self, prompts, clocks):
            raise AssertionError("nothing is asked")

    side = onevision.load("llava-onevision-7b", weights=tmp_path).language(engine=lambda _: Echo())
    assert set().union(*opened.values()) == {
        "language_model.model.embed_tokens.weight",
        "image_newline",
        *(f"multi_modal_projector.linear_{n}.{kind}" for n in (1, 2) for kind in ("weight", "bias")),
    }
    tokens_TH = side.project(torch.randn(1, 4, 32))
    assert torch.equal(tokens_TH, models.language().project(torch.randn(1, 4, 32))) is False
    assert tokens_TH.shape == (4, 32)
    with pytest.raises(UnavailableError, match="an adapter is applied to the layers of transformers"):
        models.language(tmp_path, engine=lambda _: Echo())


def test_what_is_shared_is_read_once(tmp_path: Path, opened: dict[str, set[str]]) -> None:
    """Points of one process share the tower and the language model."""
    stored(tmp_path, "onevision")
    models = onevision.load("llava-onevision-7b", weights=tmp_path)
    first = models.vision(), models.language()
    opened.clear()
    assert (models.vision(), models.language()) == first
    changed = models.language(projector=models.language().projector.state_dict())
    assert changed._engine is models.language()._engine
    assert opened == {}


def test_random_parts_are_no_copies(tmp_path: Path) -> None:
    """Random weights have a part's shapes and dtype, and give finite features."""
    models = onevision.load("mini-onevision", weights="random", dtype="bfloat16")
    assert {parameter.dtype for parameter in models.vision().vision_tower.parameters()} == {torch.bfloat16}
    assert models.fingerprint("tower") == "random"


PLACES = [
    ("weights.bin", "a safetensors file in the same folder is expected"),
    ("../outside.safetensors", "a safetensors file in the same folder is expected"),
    ("/etc/outside.safetensors", "a safetensors file in the same folder is expected"),
    ("sub/model.safetensors", "a safetensors file in the same folder is expected"),
    (7, "a safetensors file in the same folder is expected"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("place", "sentence"), PLACES)
@pytest.mark.parametrize("part", files.PARTS)
def test_an_index_leads_to_no_pickle_and_out_of_no_folder(
    tmp_path: Path, place: object, sentence: str, part: Part, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever part is loaded, the entry is refused before any file is opened."""
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    weights = stored(folder, "onevision")
    torch.save(weights, folder / "weights.bin")
    save_file(weights, tmp_path / "outside.safetensors")
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"]["language_model.model.norm.weight"] = place
    path.write_text(json.dumps(index))
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("a pickle was read"))
    monkeypatch.setattr(checkpoint, "safe_open", lambda *_, **__: pytest.fail("a file was opened"))
    with pytest.raises(CheckpointError, match=sentence) as refusal:
        onevision.load("llava-onevision-7b", weights=folder)._module(part)
    assert "model.safetensors.index.json: maps language_model.model.norm.weight to " in str(refusal.value)
    with pytest.raises(CheckpointError, match=sentence):
        files.fingerprint(folder, part)


def test_a_link_out_of_the_folder_is_the_hubs_own_layout(tmp_path: Path) -> None:
    """The hub's cache stores files as links to blobs: what a folder links to is the user's choice."""
    (tmp_path / "snapshot").mkdir()
    stored(tmp_path / "snapshot", "onevision")
    (tmp_path / "blobs").mkdir()
    for file in (tmp_path / "snapshot").iterdir():
        file.rename(tmp_path / "blobs" / file.name)
        file.symlink_to(tmp_path / "blobs" / file.name)
    assert onevision.load("llava-onevision-7b", weights=tmp_path / "snapshot").vision()


def test_an_adapter_beside_a_backbone_is_not_applied(tmp_path: Path) -> None:
    """An adapter_config.json in the checkpoint's folder changes no weight unasked, of a part or of the whole."""
    weights = stored(tmp_path, "onevision", sharded=False)
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "base_model_name_or_path": str(tmp_path)}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    models = onevision.load("llava-onevision-7b", weights=tmp_path)
    whole = models.whole()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in whole.state_dict().items())
    assert type(whole) is LlavaOnevisionForConditionalGeneration
    assert models.vision()._lora is None


def test_a_vision_side_from_a_checkpoint_sees(tmp_path: Path) -> None:
    """Its features are those of the whole model."""
    stored(tmp_path, "onevision")
    image = Image.effect_noise((90, 60), 80).convert("RGB")
    backbone = make_backbone(tie_word_embeddings=False)
    seen = onevision.load("llava-onevision-7b", weights=tmp_path).vision().see(image, Untimed())
    assert torch.equal(seen.x_PVD, backbone.see(image, Untimed()).x_PVD)


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one whenever a tower encodes a picture."""
    found: list[int] = []
    encode = LlavaVision.encode

    def counted(self: LlavaVision, tiles: Any) -> torch.Tensor:
        found.append(1)
        return encode(self, tiles)

    monkeypatch.setattr(LlavaVision, "encode", counted)
    return found


@pytest.mark.slow
def test_a_smaller_model_behind_the_same_tower_reuses_the_features(encoded: list[int]) -> None:
    """The features are equal to the bit and computed once; behind another tower, or alone, they are computed again."""
    image = Image.new("RGB", (200, 150), "red")
    alone = onevision.load("mini-onevision").smaller().vision().see(image, Sharing()).x_PVD
    models, other = onevision.load("mini-onevision"), onevision.load("mini-onevision")
    seen = models.vision().see(image, Sharing()).x_PVD
    other.vision().see(image, Sharing())
    with torch.no_grad():
        next(other.vision().vision_tower.parameters()).view(-1)[0] += 1e-3
    encoded.clear()
    assert torch.equal(models.smaller().vision().see(image, Sharing()).x_PVD, seen)
    assert not encoded
    assert torch.equal(other.smaller().vision().see(image, Sharing()).x_PVD, alone)
    assert torch.equal(seen, alone)
    assert len(encoded) == 1


@pytest.mark.slow
def test_features_of_one_point_are_reused_by_the_next(encoded: list[int]) -> None:
    """In a pass that only needs answers a picture is encoded once, to the same features; elsewhere every time."""
    vision = onevision.load("mini-onevision").vision()
    image, other = (Image.new("RGB", (200, 150), colour) for colour in ("red", "blue"))
    alone = vision.see(image, Untimed()).x_PVD
    for shown in (image, image.copy(), other, image):
        found = vision.see(shown, Sharing()).x_PVD
        assert torch.equal(found, alone) == (shown is not other)
    assert len(encoded) == 3
    for _ in range(2):
        vision.see(image, Untimed())
    assert len(encoded) == 5
