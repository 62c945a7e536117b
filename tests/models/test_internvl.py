"""InternVL3 in parts: together they are transformers' own model, behind transformers' own processor."""

import json

import pytest
import torch
from transformers import InternVLForConditionalGeneration, InternVLProcessor, PreTrainedTokenizerFast
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

from harness.data.sample import Question
from harness.errors import CheckpointError, UnavailableError
from harness.models import adapter, prompts
from harness.models.checkpoint import read_tokenizer
from harness.models.internvl import IMAGENET_MEAN, IMAGENET_STD, full_size_config, load
from tests.small_models import (
    INTERNVL_SPECIAL,
    logits_of,
    make_internvl,
    make_internvl_config,
    make_tokenizer,
    noise,
    said,
    save,
)

QUESTIONS = {
    "choice": (
        Question(text="Which?", kind="choice", options={"A": "red", "B": "green"}, hint="Look."),
        "Look.\nWhich?\nA. red\nB. green\nAnswer with the option's letter from the given choices directly.",
    ),
    "yes or no": (
        Question(text="Is it red?", kind="yes_no"),
        "Is it red? Please answer yes or no. Answer the question using a single word or phrase.",
    ),
    "open": (Question(text="What {is} it?", kind="open"), "What {is} it?\nAnswer the question directly."),
}


@pytest.fixture(scope="module")
def tiny():
    """An InternVL with 4 x 4 features of 128 a tile."""
    return make_internvl()


def processor_of(backbone):
    """What transformers prepares pictures and prompts with."""
    # It wants a processor of videos too, which is built on torchvision.
    videos = pytest.importorskip("transformers.models.internvl.video_processing_internvl", exc_type=ImportError)
    config = backbone.model.config
    height, width = config.vision_config.image_size
    names = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
    return InternVLProcessor(
        image_processor=GotOcr2ImageProcessorPil(
            size={"height": height, "width": width}, image_mean=list(IMAGENET_MEAN), image_std=list(IMAGENET_STD)
        ),
        tokenizer=PreTrainedTokenizerFast(tokenizer_object=backbone.tokenizer, extra_special_tokens=names),
        video_processor=videos.InternVLVideoProcessor(),
        image_seq_length=config.image_seq_length,
    )


def prepared(backbone, image, text):
    """The inputs of transformers' model for a picture and a question about it."""
    prompt = f"<|im_start|>user\n<IMG_CONTEXT>\n{text}<|im_end|>\n<|im_start|>assistant\n"
    inputs = processor_of(backbone)(images=[image], text=[prompt], return_tensors="pt")
    return {name: inputs[name] for name in ("input_ids", "attention_mask", "pixel_values")}


@pytest.mark.slow
@pytest.mark.parametrize(("width", "height", "n_patches"), [(40, 40, 1), (40, 30, 13), (66, 33, 3), (16, 200, 13)])
@pytest.mark.parametrize("kind", QUESTIONS)
def test_logits_are_transformers_own(tiny, kind, width, height, n_patches):
    """From pixels and text to the logits of every position, with all features, whatever the grid."""
    question, text = QUESTIONS[kind]
    image = noise(width, height)
    inputs = prepared(tiny, image, text)
    with torch.inference_mode():
        wanted_TL = tiny.model(**inputs).logits[0]
    tiles = tiny.preprocess(image)
    torch.testing.assert_close(tiles.pixels_PCHW, inputs["pixel_values"], atol=1e-5, rtol=0)
    assert len(tiles.pixels_PCHW) == n_patches
    tokens_TH = tiny.project_all(tiny.encode(tiles), tiles.layout)
    assert len(tokens_TH) == 16 * n_patches
    torch.testing.assert_close(logits_of(tiny, [tokens_TH], question), wanted_TL, atol=1e-4, rtol=0)


def test_the_whole_answer_is_transformers_own(tiny):
    """The same text as generate(), from what the processor made."""
    question, text = QUESTIONS["choice"]
    image = noise(130, 64)
    inputs = prepared(tiny, image, text)
    with torch.inference_mode():
        generated = tiny.model.generate(
            **inputs,
            do_sample=False,
            max_new_tokens=tiny._engine.max_new_tokens,
            eos_token_id=list(tiny._engine.stop),
            pad_token_id=0,
        )
    wanted = tiny.tokenizer.decode(generated[0, inputs["input_ids"].shape[1] :].tolist(), skip_special_tokens=True)
    tiles = tiny.preprocess(image)
    assert said(tiny, tiny.project_all(tiny.encode(tiles), tiles.layout), question) == wanted


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tile", "patch", "width", "vision"),
    [(448, 14, 16, {}), (32, 4, 32, {"use_qk_norm": True, "norm_type": "rms_norm", "use_mean_pooling": False})],
)
def test_features_are_what_the_projector_is_given(tile, patch, width, vision):
    """The cut is after the pixel shuffle: 256 features of four positions each on the real one's tiles of 448 px."""
    backbone = make_internvl(tile=tile, patch=patch, width=width, vision=vision)
    tiles = backbone.preprocess(noise(700, 320))
    caught = []
    projector = backbone.model.model.multi_modal_projector
    hook = projector.register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0]))
    with torch.inference_mode():
        backbone.model.model.get_image_features(tiles.pixels_PCHW)
    hook.remove()
    x_PVD = backbone.encode(tiles)
    assert x_PVD.shape == (len(tiles.pixels_PCHW), (tile // patch // 2) ** 2, 4 * width)
    assert (backbone.n_features, backbone.feature_dim) == x_PVD.shape[1:]
    torch.testing.assert_close(x_PVD, caught[0], atol=1e-5, rtol=1e-5)


def test_merged_features_take_the_place_of_all(tiny):
    """Three features a patch are three visual tokens a patch between the picture's marks, read in one direction."""
    question, text = QUESTIONS["open"]
    y_PCD = torch.randn(5, 3, 128, generator=torch.Generator().manual_seed(0))
    tokens_TH = tiny.project(y_PCD)
    shown = "<IMG_CONTEXT>" * 15
    prompt = f"<|im_start|>user\n<img>{shown}</img>\n{text}<|im_end|>\n<|im_start|>assistant\n"
    ids = torch.tensor(tiny.tokenizer.encode(prompt).ids)
    with torch.inference_mode():
        embeds_TH = tiny.model.get_input_embeddings()(ids)
        embeds_TH[ids == tiny.model.config.image_token_id] = tokens_TH
        wanted_TL = tiny.model(inputs_embeds=embeds_TH[None]).logits[0]
    torch.testing.assert_close(logits_of(tiny, [tokens_TH], question), wanted_TL, atol=1e-4, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("qk_norm", [False, True])
def test_attention_is_that_of_the_eager_tower(qk_norm):
    """A square receives what the class token pays to its positions on average; the class token is no feature's size."""
    backbone = make_internvl(vision={"use_qk_norm": qk_norm})
    tiles = backbone.preprocess(noise(64, 32))
    x_PVD, seen = backbone.encode_attended(tiles)
    assert torch.equal(x_PVD, backbone.encode(tiles))
    assert seen.class_PD is None
    eager = type(backbone.vision_tower)._from_config(backbone.config.vision_config, attn_implementation="eager").eval()
    eager.load_state_dict(backbone.vision_tower.state_dict())
    with torch.inference_mode():
        weights_PASS = eager(tiles.pixels_PCHW, output_attentions=True).attentions[-1]
    wanted_P88 = weights_PASS.mean(1)[:, 0, 1:].view(-1, 8, 8)
    wanted_PV = torch.nn.functional.avg_pool2d(wanted_P88, 2).flatten(1)
    torch.testing.assert_close(seen.received_PV, wanted_PV)
    assert seen.keys_PVK.shape == (3, 16, 16)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "total_m", "embedded"),
    [("internvl3-1b", 938.2, 896), ("internvl3-2b", 2089.0, 1536), ("internvl3-8b", 7944.4, 3584)],
)
def test_full_size_parameters(name, total_m, embedded):
    """The published sizes in parameters, the tower's 304.0 million, and 256 features of 4096."""
    with torch.device("meta"):
        model = InternVLForConditionalGeneration(full_size_config(name))
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 1) == total_m
    assert round(sum(p.numel() for p in model.model.vision_tower.parameters()) / 1e6, 1) == 304.0
    models = load(name, weights="random", device="meta")
    vision, language = models.vision(), models.language()
    assert (vision.n_features, vision.feature_dim) == (language.n_features, language.feature_dim) == (256, 4096)
    assert language.project(torch.empty(13, 8, 4096, device="meta")).shape == (13 * 8, embedded)
    assert language.max_patches(16_000_000) == 13


@pytest.mark.parametrize(
    ("file", "change", "sentence"),
    [
        (
            "config.json",
            {"vision_feature_select_strategy": "full"},
            "vision_feature_select_strategy is 'full'; 'default'",
        ),
        ("config.json", {"downsample_ratio": 0.3}, "downsample_ratio is 0.3; 0.5 or another 1 / n is expected"),
        ("config.json", {"downsample_ratio": "half"}, "downsample_ratio"),
        ("config.json", {"vision_feature_layer": 5}, "vision_feature_layer is 5; a tower of 2 layers"),
        ("preprocessor_config.json", {"max_patches": 6}, "max_patches is 6; this harness runs the model with 12"),
        ("preprocessor_config.json", {"image_mean": [0.5, 0.5, 0.5]}, r"image_mean is \[0.5, 0.5, 0.5\]"),
        ("processor_config.json", {"image_processor": {"min_patches": 2}}, "min_patches is 2"),
    ],
)
def test_what_this_harness_does_not_run_is_refused(tiny, tmp_path, file, change, sentence):
    """One sentence that names the file, of the model's config and of its processor's."""
    save(tiny, tmp_path)
    path = tmp_path / file
    declared = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**declared, **change}))
    with pytest.raises(CheckpointError, match=sentence) as refusal:
        load("internvl3-8b", weights=tmp_path)
    assert str(path) in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_the_published_processor_is_accepted(tiny, tmp_path):
    """Settings of the processor's file that equal the harness's, or are absent, are accepted."""
    save(tiny, tmp_path)
    declared = {"min_patches": 1, "max_patches": 12, "image_mean": [0.485, 0.456, 0.406], "image_std": None}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(declared))
    assert load("internvl3-8b", weights=tmp_path).vision().n_features == 16


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_head_of_its_own_is_read_whatever_the_config_says(tmp_path):
    """The published configs leave out that the head is its own, which is read as tied: the weights decide."""
    backbone = make_internvl()
    save(backbone, tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    config.pop("tie_word_embeddings")
    config["text_config"].pop("tie_word_embeddings", None)
    path.write_text(json.dumps(config))
    models = load("internvl3-8b", weights=tmp_path)
    assert models.config.tie_word_embeddings
    theirs = InternVLForConditionalGeneration.from_pretrained(tmp_path)
    wanted = backbone.model.lm_head.weight
    for head in (theirs.lm_head, models.whole().lm_head, models._module("language").lm_head):
        assert torch.equal(head.weight, wanted)
    assert models.backbone().fingerprints()["language"] == models.fingerprint("language")


def test_what_is_missing_is_named(tmp_path, monkeypatch):
    """For a model that is not installed it says what to fetch, for an unknown one which are known."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UnavailableError, match=r"internvl3-8b: .*run 'harness weights get internvl3-8b'"):
        load("internvl3-8b")
    with pytest.raises(CheckpointError, match=r"unknown full-size InternVL3 'mini-nano'; known: internvl3-1b"):
        full_size_config("mini-nano")


def test_no_adapter_is_trained(tiny):
    """Training packs LLaVA's prompts, and refuses this model before it begins."""
    with pytest.raises(UnavailableError, match="tiny: training packs questions for LLaVA-OneVision"):
        adapter.attach(tiny, 4, 8, 0.0)


def test_the_tokenizer_has_the_marks(tiny, tmp_path):
    """A tokenizer without the marks around a picture belongs to another model."""
    save(tiny, tmp_path)
    path = tmp_path / "tokenizer.json"
    path.write_text(path.read_text().replace('"</img>"', '"</pic>"'))
    with pytest.raises(CheckpointError, match="has no token '</img>'"):
        load("internvl3-8b", weights=tmp_path).language()
    assert "</img>" in INTERNVL_SPECIAL
    assert make_internvl_config().image_token_id == tiny.tokenizer.token_to_id("<IMG_CONTEXT>")


@pytest.mark.parametrize("text", ["<video>", "a <video> of 5 s", "<img><video></img>"])
def test_a_token_that_has_no_embedding_is_plain_text(tmp_path, text) -> None:
    """The published tokenizers have ``<video>`` as their last token, one more than the models have embeddings."""
    make_tokenizer(INTERNVL_SPECIAL).save(str(tmp_path / "tokenizer.json"))
    video = 256 + INTERNVL_SPECIAL.index("<video>")
    whole, cut = (read_tokenizer(tmp_path, prompts.INTERNVL.special, n) for n in (video + 1, video))
    known, found = (one.encode(text, add_special_tokens=False).ids for one in (whole, cut))
    assert video in known
    assert max(found) < video
    assert len(found) == len(known) + len("<video>") - 1, "a byte a token"
    assert cut.decode(found, skip_special_tokens=False) == text
    assert cut.encode("<img>").ids == whole.encode("<img>").ids


def test_a_mark_that_has_no_embedding_is_refused(tmp_path) -> None:
    """The template needs it: the tokenizer belongs to another model."""
    make_tokenizer(INTERNVL_SPECIAL).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(CheckpointError, match="has a token 259, but the model's vocabulary ends at 258"):
        read_tokenizer(tmp_path, prompts.INTERNVL.special, 256 + INTERNVL_SPECIAL.index("</img>"))
