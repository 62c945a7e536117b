"""The reducers of Table I: VisionZip on hand-made attention, the centres alone, the Q-Former's queries."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from baselines.ablations.qformer import QFormer, QFormerConfig
from baselines.ablations.reducers import Centres, VisionZip
from harness.errors import CheckpointError, FeaturesError
from harness.models.contract import Attention
from harness.tofc.merging import Merging, merge


def _features(n_patches: int = 3, n_features: int = 16, dim: int = 8, seed: int = 0) -> tuple[Tensor, Attention]:
    generator = torch.Generator().manual_seed(seed)
    x_PVD = torch.randn(n_patches, n_features, dim, generator=generator)
    received_PV = torch.rand(n_patches, n_features, generator=generator).softmax(-1)
    return x_PVD, Attention(received_PV, torch.randn(n_patches, n_features, 4, generator=generator))


def test_visionzip_on_attention_made_by_hand() -> None:
    """Eight features, four kept: one for its attention; of the other seven, three are targets of the other four."""
    x_1VD = torch.arange(8.0)[None, :, None] * torch.tensor([1.0, 10.0])
    received_1V = torch.tensor([[0.1, 0.1, 0.1, 0.9, 0.1, 0.1, 0.1, 0.1]])
    # Without feature 3 the places are 0 1 2 4 5 6 7; the targets, at a stride of two, are 0, 2 and 5.
    keys = {0: (1, 0), 2: (0, 1), 5: (-1, 0), 1: (0, 5), 4: (3, 1), 6: (0.1, 0.2), 7: (2, -1), 3: (9, 9)}
    keys_1VK = torch.tensor([[keys[place] for place in range(8)]], dtype=torch.float32)
    y_1CD = VisionZip(one_in=4)(x_1VD, 4, Attention(received_1V, keys_1VK))
    # 4 and 7 go to 0, 1 and 6 go to 2, none to 5; a target counts in full, and so does the mean.
    expected = [3.0, 0 + (4 + 7) / 2, 2 + (1 + 6) / 2, 5.0]
    assert y_1CD[0, :, 0].tolist() == expected
    assert y_1CD[0, :, 1].tolist() == [10 * value for value in expected]


def test_visionzip_merging_keeps_no_feature_for_its_attention() -> None:
    """Whatever attention says, all features are merged."""
    x_PVD, attention = _features()
    other = Attention(attention.received_PV.flip(1), attention.keys_PVK)
    merging = VisionZip(one_in=None)
    assert torch.equal(merging(x_PVD, 4, attention), merging(x_PVD, 4, other))
    assert not torch.equal(VisionZip()(x_PVD, 4, attention), VisionZip()(x_PVD, 4, other))


@pytest.mark.parametrize(("n_clusters", "dominant"), [(1, 0), (2, 1), (3, 1), (6, 2), (16, 4), (32, 8)])
def test_a_quarter_is_dominant(n_clusters: int, dominant: int) -> None:
    """The paper's 4 of 16, and at least one feature that is merged."""
    assert VisionZip(one_in=4).n_dominant(n_clusters) == dominant


def test_dominant_features_are_those_most_attended_to() -> None:
    """As they are, in the order of their places; of equal ones the first."""
    x_PVD, attention = _features()
    y_PCD = VisionZip(one_in=2)(x_PVD, 4, attention)
    for x_VD, received_V, y_CD in zip(x_PVD, attention.received_PV, y_PCD, strict=True):
        assert torch.equal(y_CD[:2], x_VD[received_V.topk(2).indices.sort().values])
    equal = Attention(torch.full_like(attention.received_PV, 0.1), attention.keys_PVK)
    assert torch.equal(VisionZip(one_in=2)(x_PVD, 4, equal)[:, :2], x_PVD[:, :2])


def test_a_class_token_is_one_of_the_dominant_features() -> None:
    """It is first, in the place of the least attended of them; VisionZip's merging alone has no place for it."""
    x_PVD, attention = _features()
    class_PD = torch.full((3, 8), 7.0)
    shown = Attention(attention.received_PV, attention.keys_PVK, class_PD)
    y_PCD = VisionZip(one_in=4)(x_PVD, 8, shown)
    assert y_PCD.shape == (3, 8, 8)
    assert torch.equal(y_PCD[:, 0], class_PD)
    assert torch.equal(y_PCD[:, 1], x_PVD[torch.arange(3), attention.received_PV.argmax(-1)])
    merging = VisionZip(one_in=None)
    assert torch.equal(merging(x_PVD, 8, shown), merging(x_PVD, 8, attention))


def test_what_visionzip_merges_is_all_that_it_does_not_keep() -> None:
    """Weighted by how many went to it, a contextual feature less its target sums up the features that are neither."""
    x_PVD, attention = _features(1, 12)
    y_PCD = VisionZip(one_in=None)(x_PVD, 1, attention)
    assert torch.allclose(y_PCD[0, 0], x_PVD[0, 0] + x_PVD[0, 1:].mean(0), atol=1e-6)


def test_visionzip_without_attention_is_refused() -> None:
    """It is refused, as is a number of features that a patch does not have."""
    x_PVD, attention = _features()
    with pytest.raises(ValueError, match="needs the attention"):
        VisionZip()(x_PVD, 4)
    for wrong in (0, 17):
        with pytest.raises(FeaturesError, match="it has 16"):
            VisionZip()(x_PVD, wrong, attention)


@pytest.mark.slow
def test_unmerged_features_are_those_at_the_centres() -> None:
    """Bit for bit; what surrounds them has no part in them, and merging would have changed them."""
    x_PVD, _ = _features(4, 32)
    centres_PC = merge(x_PVD, 5).centres_PC
    y_PCD = Centres()(x_PVD, 5)
    for x_VD, centres_C, y_CD in zip(x_PVD, centres_PC, y_PCD, strict=True):
        assert torch.equal(y_CD, x_VD[centres_C])
    assert not torch.equal(y_PCD, Merging()(x_PVD, 5))


@pytest.mark.slow
@given(n_clusters=st.integers(1, 16), seed=st.integers(0, 100))
def test_every_reducer_makes_the_requested_number_of_features(n_clusters: int, seed: int) -> None:
    """For every n_c from one to V, finite and at the features' dtype."""
    x_PVD, attention = _features(seed=seed)
    for reducer in (Merging(), Centres(), VisionZip(), VisionZip(one_in=None)):
        y_PCD = reducer(x_PVD.half(), n_clusters, attention)
        assert y_PCD.shape == (3, n_clusters, 8)
        assert y_PCD.dtype == torch.float16
        assert y_PCD.isfinite().all()


def test_all_features_kept_are_all_features() -> None:
    """At n_c = V nothing is lost: each reducer gives the features themselves, in some order."""
    x_PVD, attention = _features()
    for reducer in (Merging(), Centres(), VisionZip(), VisionZip(one_in=None)):
        y_PCD = reducer(x_PVD, 16, attention)
        assert torch.allclose(y_PCD.sort(1).values, x_PVD.sort(1).values, atol=1e-6)


def test_reducers_are_differentiable_in_the_features() -> None:
    """A tower can be trained through each of them."""
    for reducer in (Merging(), Centres(), VisionZip()):
        x_PVD, attention = _features()
        reducer(x_PVD.requires_grad_(), 4, attention).square().sum().backward()
        assert x_PVD.grad is not None
        assert x_PVD.grad.isfinite().all()
        assert x_PVD.grad.abs().max() > 0


@pytest.fixture
def qformer() -> QFormer:
    """A small one, started from the features' scale."""
    torch.manual_seed(0)
    found = QFormer(QFormerConfig(dim=8, queries=5, width=16, layers=2, heads=2))
    found.fit_scale(3 * _features(20)[0] + 100)
    return found


def test_a_qformer_begins_at_the_features_mean_and_spread(qformer: QFormer) -> None:
    """So that projector and codec start near their optimum."""
    y_PCD = qformer(3 * _features(20, seed=1)[0] + 100, 5)
    assert y_PCD.shape == (20, 5, 8)
    assert (y_PCD.mean((0, 1)) - 100).abs().max() < 6
    assert 1 < y_PCD.std() < 9


def test_a_qformer_learns_from_what_it_sees(qformer: QFormer) -> None:
    """The gradient reaches the queries, every layer's cross-attention and the features."""
    x_PVD = (3 * _features()[0] + 100).requires_grad_()
    qformer(x_PVD, 5).square().sum().backward()
    for name, parameter in qformer.named_parameters():
        if parameter.grad is not None:
            assert parameter.grad.isfinite().all(), name
    assert qformer.queries_CH.grad is not None
    crossing = [p.grad for name, p in qformer.named_parameters() if "crossattention" in name and "value.weight" in name]
    assert len(crossing) == 2
    assert all(gradient is not None and gradient.abs().max() > 0 for gradient in crossing)
    assert x_PVD.grad is not None
    assert x_PVD.grad.abs().max() > 0


def test_a_qformers_features_are_of_its_own_patch(qformer: QFormer) -> None:
    """Patches do not see each other; fewer queries are refused for more features."""
    x_PVD = 3 * _features()[0] + 100
    alone_1CD = qformer(x_PVD[1:2], 4)
    assert torch.allclose(qformer(x_PVD, 4)[1:2], alone_1CD, atol=1e-4)
    with pytest.raises(FeaturesError, match="the Q-Former has 5 queries"):
        qformer(x_PVD, 6)


def test_a_damaged_qformer_is_refused(tmp_path: Path) -> None:
    """An absent or foreign file is a CheckpointError that names it."""
    (tmp_path / "foreign.safetensors").write_bytes(b"\\xff" * 64)
    for name in ("absent", "foreign"):
        with pytest.raises(CheckpointError, match=name):
            QFormer.load(tmp_path / f"{name}.safetensors", torch.device("cpu"))
