"""A checkpoint's parts, read separately: transformers' own, from no more files and bytes than needed.

The checkpoints are random models of a few thousand weights, under the names of transformers before 5.0 and after.
"""

import itertools
import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import (
    Gemma3ForConditionalGeneration,
    InternVLForConditionalGeneration,
    LlavaForConditionalGeneration,
    LlavaOnevisionForConditionalGeneration,
)

from harness.errors import CheckpointError, UnavailableError
from harness.models import checkpoint, files, gemma3, internvl, llava15, onevision
from harness.models.contract import Part, Sharing, Untimed
from harness.models.family import whole_parts
from harness.models.llava import Llava, LlavaVision
from harness.models.loading import LlavaModels
from tests.small_models import make_backbone, make_backbone15, make_gemma3, make_internvl, old_name, save, write

FAMILIES: dict[str, tuple[Callable[..., Llava], Any, Callable[..., LlavaModels], str]] = {
    "onevision": (make_backbone, LlavaOnevisionForConditionalGeneration, onevision.load, "llava-onevision-7b"),
    "llava15": (make_backbone15, LlavaForConditionalGeneration, llava15.load, "llava-1.5-7b"),
    "internvl": (make_internvl, InternVLForConditionalGeneration, internvl.load, "internvl3-8b"),
    "gemma3": (make_gemma3, Gemma3ForConditionalGeneration, gemma3.load, "gemma-3-4b"),
}
CHANGED = {
    "tower": ("encoder.layers.1.mlp.fc1.weight", "encoder.layer.1.mlp.fc1.weight"),
    "projector": ("multi_modal_projector.linear_2.bias", "multi_modal_projector.mm_input_projection_weight"),
    "language": ("language_model.norm.weight",),
}
"""A tensor of each part, by how its name ends."""
STORED = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def stored(folder: Path, family: str, *, old: bool = True, sharded: bool = True, dtype=torch.float32, tied=False):
    """A checkpoint in ``folder``, and its tensors by their names in transformers 5."""
    build = FAMILIES[family][0]
    backbone = build(tie_word_embeddings=tied)
    save(backbone, folder)
    weights = {name: tensor.to(dtype).clone() for name, tensor in backbone.model.state_dict().items()}
    if tied:
        del weights["lm_head.weight"]
    write(folder, {old_name(n) if old else n: t for n, t in weights.items()}, sharded=sharded)
    return weights


LAYOUTS = [
    *itertools.product(("onevision", "llava15"), (False, True), (False, True), (False, True), STORED),
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


def change(*path: str, to: object):
    """Replaces a value of a config.json."""

    def apply(config: dict) -> None:
        *above, last = path
        for key in above:
            config = config[key]
        config[last] = to

    return apply


CONFIGS = [
    (change("quantization_config", to={"quant_method": "awq", "bits": 4}), r"its weights are quantised \(awq\)"),
    (change("quantization_config", to={"quant_method": "bitsandbytes", "load_in_4bit": True}), r"\(bitsandbytes\)"),
    (change("quantization_config", to={}), r"quantised \(an unnamed method\)"),
    (change("quantization_config", to=[4]), r"quantised \(an unnamed method\)"),
    (change("vision_feature_layer", to=3), "vision_feature_layer is 3; a tower of 2 layers has -3 to 2"),
    (change("vision_feature_layer", to=-4), "vision_feature_layer is -4; a tower of 2 layers"),
    (change("vision_feature_layer", to=[-1, -2]), r"vision_feature_layer is \[-1, -2\]; the number of one layer"),
    (
        change("vision_feature_select_strategy", to="cls"),
        "vision_feature_select_strategy.*cls",
    ),
    (
        change("vision_feature_select_strategy", to="default"),
        "vision_feature_select_strategy is 'default'; 'full' is expected",
    ),
    (
        change("vision_config", to={"model_type": "clip_vision_model", "image_size": 32, "patch_size": 8}),
        "vision_config.model_type is 'clip_vision_model'; 'siglip_vision_model' is expected",
    ),
    (change("vision_aspect_ratio", to="anyres"), "vision_aspect_ratio is 'anyres'"),
    (change("vision_aspect_ratio", to="square"), "vision_aspect_ratio is 'square'"),
    (change("vision_aspect_ratio", to="anyres_max_0"), "vision_aspect_ratio is 'anyres_max_0'"),
    (change("vision_config", "num_attention_heads", to=0), "num_attention_heads"),
    (change("text_config", "num_attention_heads", to=0), "num_attention_heads"),
    (change("text_config", "num_key_value_heads", to=0), "num_key_value_heads"),
    (change("text_config", "num_key_value_heads", to=3), "num_key_value_heads"),
    (change("vision_config", "num_attention_heads", to=5), "num_attention_heads"),
    (change("vision_config", "patch_size", to=0), "patch_size"),
    (change("vision_config", "patch_size", to=64), "patch_size 64"),
    (change("vision_config", "image_size", to=-32), "image_size"),
    (change("vision_config", "image_size", to=True), "image_size"),
    (change("vision_config", "hidden_size", to=0), "hidden_size"),
    (change("text_config", "hidden_size", to=0), "hidden_size"),
    (change("text_config", "vocab_size", to=0), "vocab_size"),
    (change("text_config", "num_hidden_layers", to=0), "num_hidden_layers"),
    (change("vision_config", "num_hidden_layers", to=0), "num_hidden_layers|vision_feature_layer"),
    (change("image_grid_pinpoints", to=[]), "image_grid_pinpoints"),
    (change("image_grid_pinpoints", to=[[32, "a"]]), "image_grid_pinpoints"),
    (change("image_grid_pinpoints", to=[[8, 8]]), "image_grid_pinpoints"),
    (change("image_grid_pinpoints", to=32), "image_grid_pinpoints"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("damage", "sentence"), CONFIGS, ids=[sentence for _, sentence in CONFIGS])
def test_what_this_harness_does_not_run_is_refused(tmp_path: Path, damage, sentence: str) -> None:
    """One sentence that names the file and the key, before a tensor is read."""
    stored(tmp_path, "onevision")
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    damage(config)
    path.write_text(json.dumps(config))
    for file in tmp_path.glob("*.safetensors"):
        os.truncate(file, 0)
    with pytest.raises(CheckpointError, match=sentence) as refusal:
        onevision.load("llava-onevision-7b", weights=tmp_path)
    assert "\n" not in str(refusal.value)
    assert str(path) in str(refusal.value)


@pytest.mark.slow
def test_a_class_token_is_no_feature(tmp_path: Path) -> None:
    """CLIP's first state is that of its class token: with it V would be one more than the positions."""
    stored(tmp_path, "llava15")
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "vision_feature_select_strategy": "full"}))
    with pytest.raises(
        CheckpointError, match="is 'full'; 'default' is expected, with which each position has a feature"
    ):
        llava15.load("llava-1.5-7b", weights=tmp_path)


UNPLACED = [
    ("tower", "vision_config", {"num_hidden_layers": 1}, "encoder.layers.1."),
    ("language", "text_config", {"num_hidden_layers": 1}, "model.layers.1."),
    ("projector", None, {"multimodal_projector_bias": False}, "multi_modal_projector.linear_1.bias"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("part", "key", "less", "first"), UNPLACED, ids=[part for part, *_ in UNPLACED])
def test_weights_that_the_config_has_no_place_for_are_refused(tmp_path: Path, part, key, less, first: str) -> None:
    """A config.json with fewer layers or biases than the weights would give another model, silently."""
    stored(tmp_path, "onevision")
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    (config if key is None else config[key]).update(less)
    if key == "text_config":
        config[key].pop("layer_types", None)
    path.write_text(json.dumps(config))
    models = onevision.load("llava-onevision-7b", weights=tmp_path)
    sentence = rf"\d+ weights of the {part} have no place in the model that its config.json describes, {first}"
    for use in (models.vision if part == "tower" else models.language, models.whole):
        with pytest.raises(CheckpointError, match=sentence) as refusal:
            use()
        assert str(tmp_path) in str(refusal.value)


def test_the_pooling_head_of_siglip_is_not_missed(tmp_path: Path) -> None:
    """Checkpoints may have it, although no model reads the pooled feature."""
    weights = stored(tmp_path, "onevision", sharded=False)
    old = {old_name(name): tensor for name, tensor in weights.items()}
    write(tmp_path, {**old, "vision_tower.vision_model.head.probe": torch.ones(1, 1, 32)}, sharded=False)
    assert onevision.load("llava-onevision-7b", weights=tmp_path).vision().feature_dim == 32


def test_a_head_with_rows_of_its_own_is_not_the_embedding(tmp_path: Path) -> None:
    """Where a vocabulary was extended, head and embedding differ in the rows at the end alone."""
    weights = stored(tmp_path, "onevision", tied=True, sharded=False)
    embedding = weights["model.language_model.embed_tokens.weight"]
    head = embedding.clone()
    old = {old_name(name): tensor for name, tensor in weights.items()}
    write(tmp_path, {**old, "language_model.lm_head.weight": head}, sharded=False)
    config = json.loads((tmp_path / "config.json").read_text())
    config["tie_word_embeddings"] = config["text_config"]["tie_word_embeddings"] = True
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert "lm_head.weight" not in files.tensors(tmp_path, "language")
    files.tensors.cache_clear()
    head[-2:] += 1
    write(tmp_path, {**old, "language_model.lm_head.weight": head}, sharded=False)
    assert "lm_head.weight" in files.tensors(tmp_path, "language")
    engine: Any = onevision.load("llava-onevision-7b", weights=tmp_path).language()._engine
    loaded = engine.language
    assert torch.equal(loaded.lm_head.weight, head)
    assert torch.equal(loaded.model.embed_tokens.weight, embedding)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json", "generation_config.json"])
@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 50_000, "\xff", "null", ""], ids=list("deeps")[:5])
def test_json_that_is_deep_or_none_is_one_sentence(tmp_path: Path, name: str, text: str) -> None:
    """Not a RecursionError; the file is named."""
    stored(tmp_path, "onevision")
    (tmp_path / name).write_bytes(text.encode("latin-1"))
    files.tensors.cache_clear()
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        onevision.load("llava-onevision-7b", weights=tmp_path).language()


HEADERS = {
    "claims more than it is": struct.pack("<Q", 1 << 60) + b"{}",
    "no JSON": struct.pack("<Q", 4) + b"{{{{",
    "deep JSON": struct.pack("<Q", 200_000) + b"[" * 200_000,
    "no object": struct.pack("<Q", 2) + b"[]",
    "empty": b"",
}


@pytest.mark.slow
@pytest.mark.parametrize("header", HEADERS)
def test_a_damaged_header_is_one_sentence(tmp_path: Path, header: str) -> None:
    """For reading a part and for its fingerprint alike."""
    stored(tmp_path, "onevision")
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())["weight_map"]
    (tmp_path / index["image_newline"]).write_bytes(HEADERS[header])
    models = onevision.load("llava-onevision-7b", weights=tmp_path)
    for use in (lambda: models.language(), lambda: models.fingerprint("projector")):
        with pytest.raises(CheckpointError, match=r"model-000\d\d-of-00012\.safetensors: "):
            use()


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.int8, torch.float64, torch.float8_e4m3fn])
def test_weights_of_another_kind_of_number_are_refused(tmp_path: Path, dtype: torch.dtype) -> None:
    """Quantised tensors that the config does not mention, and doubles: by the tensor's name."""
    weights = stored(tmp_path, "onevision", sharded=False, old=False)
    key = "model.multi_modal_projector.linear_1.weight"
    write(tmp_path, {**weights, key: weights[key].to(dtype)}, sharded=False)
    models = onevision.load("llava-onevision-7b", weights=tmp_path)
    for use in (lambda: models.language(), lambda: models.fingerprint("projector")):
        with pytest.raises(CheckpointError, match=rf"model\.safetensors: {key} is stored as ") as refusal:
            use()
        assert "\n" not in str(refusal.value)


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
