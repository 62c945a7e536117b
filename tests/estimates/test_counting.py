"""Counted work against closed forms, torch's own counter and a real tower."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from baselines.work import codec_work
from harness import catalog
from harness.errors import ScenarioError
from harness.estimates.backbone import CountedBackbone, entropy_networks, published_model
from harness.estimates.counting import META, causal_scores, counted
from harness.estimates.roofline import Count
from harness.estimates.stages import NominalRequest
from harness.models.onevision import load
from harness.profiling.resources import OperationsClock
from harness.schemes.tofc import FeaturePoint

_attention = torch.nn.functional.scaled_dot_product_attention


@pytest.fixture(scope="module")
def mini() -> CountedBackbone:
    """The miniature on the meta device."""
    return CountedBackbone("mini-onevision")


@pytest.mark.slow
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 40))
def test_a_product_is_two_operations_an_element(n: int, i: int, o: int) -> None:
    """2 N I O operations; the inputs, the weights and the outputs are the bytes, without autograd as with it."""
    layer, x = nn.Linear(i, o, bias=False, device=META), torch.empty(n, i, device=META)
    expected = Count(2 * n * i * o, 4 * (n * i + i * o + n * o))
    assert counted(lambda: layer(x)) == expected

    def inferred() -> None:
        with torch.inference_mode():
            layer(x)

    assert counted(inferred) == expected


@given(st.integers(1, 12), st.integers(0, 12))
def test_a_causal_mask_keeps_the_scores_of_earlier_positions(n_queries: int, n_before: int) -> None:
    """As many as there are ones in the mask itself."""
    n_keys = n_queries + n_before
    mask = np.tril(np.ones((n_keys, n_keys)))[n_before:]
    assert causal_scores(n_queries, n_keys) == mask.sum()


def test_attention_is_two_products_and_writes_no_scores() -> None:
    """4 S^2 K an attention head, half of it under a causal mask, and each of q, k, v and the output once."""
    q, k, v = (torch.empty(2, 3, 10, 8, device=META) for _ in range(3))
    assert counted(lambda: _attention(q, k, v)) == Count(4 * 2 * 3 * 100 * 8, 4 * 4 * q.numel())
    causal = counted(lambda: _attention(q, k, v, is_causal=True))
    assert causal.operations == 4 * 2 * 3 * 55 * 8


def test_a_backbone_of_your_own_is_not_counted() -> None:
    """The stages are known only of the catalog's own models."""
    with pytest.raises(ScenarioError, match="the work of backbone mine:Model cannot be counted; that of these can be"):
        CountedBackbone("mine:Model")


def test_a_tower_on_the_meta_device_does_what_a_real_one_does(mini: CountedBackbone) -> None:
    """The vision tower's operations are those that torch counts while the real miniature sees a picture."""
    clock = OperationsClock("cpu")
    load("mini-onevision").vision().see(Image.new("RGB", (200, 130)), clock)
    assert mini.vision(200, 130).operations == clock.operations["vision_encode"]


@pytest.mark.slow
def test_one_token_after_many_reads_the_weights_and_the_cache(mini: CountedBackbone) -> None:
    """Its operations are those of its products; each further token before it adds its keys and values, twice used."""
    config = load("mini-onevision", weights="random", device="meta").config.text_config
    heads, layers = config.num_attention_heads, config.num_hidden_layers
    dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    near, far = mini.generate(100, 2), mini.generate(101, 2)
    assert far.operations - near.operations == 4 * layers * heads * dim
    assert far.n_bytes - near.n_bytes == 2 * 2 * layers * config.num_key_value_heads * dim
    assert mini.generate(100, 1) == Count()
    assert mini.generate(100, 3).operations == near.operations + far.operations


@pytest.mark.slow
def test_the_sevens_vision_tower_is_the_published_one() -> None:
    """26 layers of 4 D^2 + 2 D F weights on 729 features, their attention, and the embedding of 14 x 14 pixels."""
    s, d, f, layers = 729, 1152, 4304, 26
    expected = 2 * s * (layers * (4 * d * d + 2 * d * f) + 3 * 14 * 14 * d) + layers * 4 * s * s * d
    tower = load("llava-onevision-7b", weights="random", device="meta", dtype="bfloat16").vision()
    found = counted(lambda: tower.features(torch.empty(1, 3, 384, 384, device=META)))
    assert found.operations == expected


def test_each_feature_is_coded_by_one_entropy_model() -> None:
    """Sixteen models compute for a feature what one does, and the router."""
    d, n = 64, 32
    one, sixteen = entropy_networks(n, d, 1), entropy_networks(n, d, 16)
    layers = [(d, d), (d, d // 2), (d // 2, d // 16), (d // 16, d // 2), (d // 2, d), (d, 2 * d)]
    assert one.operations == 2 * n * sum(a * b for a, b in layers)
    assert sixteen.operations - one.operations == 2 * n * (d * 16 + 16 * 16)
    for n_experts in (1, 16):
        decoding = entropy_networks(n, d, n_experts, decoding=True)
        assert decoding.operations == 2 * n * sum(a * b for a, b in layers[3:])


@pytest.mark.slow
def test_table_1_codes_nothing(mini: CountedBackbone) -> None:
    """Its features are written and read once, in half precision; Fig. 12's single model codes."""
    asked = NominalRequest(width_px=300, height_px=200, text_tokens=20, answer_tokens=2)
    copied = Count(0.0, 4.0 * mini.patches(300, 200) * 4 * mini.dim)
    for scheme in ("tofc_single", "tofc_unmerged", "visionzip", "visionzip_merging", "qformer"):
        of = catalog.load("scheme", scheme, catalog.WORK)
        found = list(of(mini, asked, FeaturePoint(codec="codecs/mine/distortion", n_c=4)))
        assert [work.count for work in found if work.stage in ("encode", "decode")] == [copied, copied], scheme
        assert [work.stage for work in found if work.kind == "entropy_coding"] == [], scheme
    coded = list(catalog.load("scheme", "tofc_single", catalog.WORK)(mini, asked, FeaturePoint(codec="a", n_c=4)))
    assert [work.stage for work in coded if work.kind == "entropy_coding"] == ["encode", "decode"]


@pytest.mark.slow
def test_a_quantised_model_reads_four_bits_for_sixteen() -> None:
    """A quantised model's linear layers lose three quarters of their bytes, less their scales, and no operation."""
    shape = {
        "type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 100,
    }  # fmt: skip
    full, quantised = (published_model(shape, 10, kind="generate", weight_bits=bits) for bits in (16, 4.125))
    linear = 2 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 128)
    assert full.operations == quantised.operations
    assert full.n_bytes - quantised.n_bytes == linear * (16 - 4.125) / 8


@pytest.mark.slow
def test_a_learned_codec_grows_with_its_picture() -> None:
    """Twice the picture is twice the operations, of either codec and on either side."""
    for codec in ("hyperprior", "elic"):
        one, two = (codec_work(codec, width, 128, (32, 48)) for width in (128, 256))
        for small, large in zip(one, two, strict=True):
            assert small.operations > 0
            assert large.operations == pytest.approx(2 * small.operations, rel=0.01)
