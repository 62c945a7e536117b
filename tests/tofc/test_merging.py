"""Feature merging against Eqs. 2-3 evaluated naively in float64."""

import importlib.util
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numba.core.dispatcher import Dispatcher

from harness.errors import FeaturesError
from harness.tofc import density_peaks
from harness.tofc.merging import Merging, cluster_on_accelerator, merge


def oracle(x_VD: torch.Tensor, n_clusters: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Centres and labels exactly by Eqs. 2-3, in logarithms, with loops and differences in float64."""
    x = x_VD.double().numpy()
    n = len(x)
    square = ((x[:, None] - x[None]) ** 2).sum(-1)
    log_rho = np.array([-np.sort(np.delete(square[i], i))[:k].sum() / k for i in range(n)])
    delta = np.empty(n)
    for i in range(n):
        denser = [j for j in range(n) if log_rho[j] > log_rho[i] or (log_rho[j] == log_rho[i] and j < i)]
        delta[i] = np.sqrt(square[i, denser].min() if denser else square[i].max())
    with np.errstate(divide="ignore"):
        score = log_rho + np.log(delta)
    centres = np.sort(np.argsort(-score, kind="stable")[:n_clusters])
    to_centre = square[:, centres]
    to_centre[centres, np.arange(n_clusters)] = -1
    return centres, to_centre.argmin(1)


def features(kind: str, n_features: int = 120, dimension: int = 96, seed: int = 0) -> torch.Tensor:
    """Features of one hazard: an offset, a spread, padding, outliers, clusters, near-duplicates, extreme scales."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n_features, dimension, generator=generator)
    if kind == "offset":
        direction = torch.randn(dimension, generator=generator)
        return x + 100 * dimension**0.5 * direction / direction.norm()
    if kind == "spread":
        return 40 * x
    if kind == "padded":
        return torch.cat([x[: n_features // 4], torch.full((n_features - n_features // 4, dimension), 0.3)])
    if kind == "outliers":
        return x * torch.where(torch.rand(n_features, 1, generator=generator) < 0.05, 30.0, 0.3)
    if kind == "blobs":
        return x * 0.05 + 3 * torch.randn(6, dimension, generator=generator)[torch.arange(n_features) % 6]
    if kind.startswith("near"):
        half = x[: n_features // 2]
        return torch.cat([half, half + float(kind.removeprefix("near")) * x[n_features // 2 :]])
    if kind == "coherent":
        return x[:, :1].expand(-1, dimension).contiguous()
    if kind == "massive":
        return x * torch.where(torch.arange(dimension) < 2, 30.0, 0.1)
    if kind == "tiny":
        return x * 1e-25
    if kind == "huge":
        return x * 1e22
    return x


KINDS = (
    "ordinary",
    "offset",
    "spread",
    "padded",
    "outliers",
    "blobs",
    "near1e-3",
    "near1e-6",
    "coherent",
    "massive",
    "tiny",
    "huge",
)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n_clusters", [1, 2, 8, 32, 119, 120])
def test_merging_agrees_with_the_float64_oracle(kind: str, n_clusters: int) -> None:
    """Centres, labels and means are the oracle's, whatever the features' scale, offset or repetition."""
    x_VD = features(kind)
    centres, labels = oracle(x_VD, n_clusters, 5)
    merged = merge(x_VD[None], n_clusters)
    assert merged.centres_PC[0].tolist() == centres.tolist()
    assert merged.labels_PV[0].tolist() == labels.tolist()
    means = np.stack([x_VD.double().numpy()[labels == c].mean(0) for c in range(n_clusters)])
    np.testing.assert_allclose(merged.y_PCD[0], means, rtol=1e-5, atol=1e-5 * np.abs(means).max())


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_merging_agrees_with_the_oracle_at_full_size(seed: int) -> None:
    """729 SigLIP-sized features, where Eq. 2 underflows and distances concentrate, are clustered as in float64."""
    x_VD = features("ordinary", 729, 1152, seed)
    square = torch.cdist(x_VD.double(), x_VD.double(), compute_mode="donot_use_mm_for_euclid_dist").square()
    assert torch.exp(-square.float()[0, 1:].min()) == 0
    exact_VV = square.numpy()
    centres, labels = np.empty(16, np.int64), np.empty(729, np.int64)
    norm_V = x_VD.double().square().sum(-1).numpy()
    density_peaks.choose(x_VD.double().numpy(), exact_VV, norm_V, np.arange(729), 5, 0.0, centres, labels)
    merged = merge(x_VD[None], 16)
    assert merged.centres_PC[0].tolist() == centres.tolist()
    assert merged.labels_PV[0].tolist() == labels.tolist()


@pytest.mark.parametrize("dimension", [3, 96, 1152])
@pytest.mark.parametrize("kind", ["ordinary", "outliers", "blobs", "near1e-3", "coherent", "massive"])
def test_distances_from_a_product_are_within_their_bound(kind: str, dimension: int) -> None:
    """Also where all terms of a product round alike, or a few dimensions outweigh all others."""
    x_VD = features(kind, dimension=dimension).numpy()
    centred_VD, norm_V, square_VV = np.empty_like(x_VD), np.empty(len(x_VD)), np.zeros((len(x_VD),) * 2, np.float32)
    twin_V, _, is_centred = density_peaks._centre(x_VD, centred_VD, norm_V)
    density_peaks.inner_products(centred_VD if is_centred else x_VD, square_VV)
    density_peaks.to_squared_distances(square_VV, norm_V, twin_V)
    exact_VV = np.zeros((len(x_VD),) * 2)
    density_peaks._take_differences(x_VD.astype(np.float64), exact_VV, np.ones(len(x_VD)), np.arange(len(x_VD)))
    i, j = np.tril_indices(len(x_VD), -1)
    error = np.abs(square_VV[i, j] - exact_VV[i, j]) / (norm_V[i] + norm_V[j])
    assert error.max() < 0.5 * density_peaks.rounding(dimension, float(np.finfo(x_VD.dtype).eps))


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of features whose distances were taken as differences, for each call."""
    density_peaks.prepare()
    found: list[int] = []
    take = density_peaks._take_differences

    def counted(*given: Any) -> None:
        found.append(len(given[-1]))
        take(*given)

    monkeypatch.setattr(density_peaks, "_take_differences", counted)
    return found


@pytest.mark.parametrize(("kind", "expected"), [("ordinary", 0), ("spread", 0), ("padded", 0), ("near1e-6", 120)])
def test_differences_are_taken_where_the_product_does_not_decide(kind: str, expected: int, taken: list[int]) -> None:
    """If float32 separates the features no distance is computed again; if all have a near-duplicate, all are."""
    merge(features(kind)[None], 8)
    assert sum(taken) == expected


def test_few_features_in_doubt_are_settled_by_their_own_differences(taken: list[int]) -> None:
    """If float32 cannot order those at the last centre, for some numbers of centres, only their distances are."""
    x_VD = features("ordinary", 80, 1152)
    exact_VV = torch.cdist(x_VD.double(), x_VD.double(), compute_mode="donot_use_mm_for_euclid_dist").square().numpy()
    norm_V = x_VD.double().square().sum(-1).numpy()
    for n_clusters in range(1, 80):
        centres, labels = np.empty(n_clusters, np.int64), np.empty(80, np.int64)
        density_peaks.choose(x_VD.double().numpy(), exact_VV.copy(), norm_V, np.arange(80), 5, 0.0, centres, labels)
        merged = merge(x_VD[None], n_clusters)
        assert merged.centres_PC[0].tolist() == centres.tolist()
        assert merged.labels_PV[0].tolist() == labels.tolist()
    assert taken
    assert max(taken) <= 8


def test_the_first_patch_in_doubt_finds_its_kernels_compiled() -> None:
    """After one call on ordinary features, features that tie, whose request may be timed, compile nothing."""
    spec = importlib.util.spec_from_file_location("density_peaks_anew", density_peaks.__file__)
    assert spec is not None
    assert spec.loader is not None
    anew = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(anew)
    kernels = [found for found in vars(anew).values() if isinstance(found, Dispatcher)]
    anew.cluster(features("ordinary")[None], 8, 5)
    compiled = [len(kernel.signatures) for kernel in kernels]
    anew.cluster(torch.arange(40.0).view(1, 40, 1), 8, 5)
    anew.cluster(features("near1e-6").double()[None], 8, 5)
    assert [len(kernel.signatures) for kernel in kernels] == compiled
    assert len(anew._scan.signatures) == 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_blas_that_returns_garbage_is_detected(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    """OpenBLAS has kernels that do, for processors other than this one: the clusters are still right."""
    right = density_peaks.inner_products

    def garbage(x_VD: np.ndarray, out_VV: np.ndarray) -> None:
        right(x_VD, out_VV)
        # One triangle is never written, and may have any content.
        with np.errstate(all="ignore"):
            out_VV[len(out_VV) // 2 :] *= 0.5

    x_PVD = torch.randn(2, 40, 24, generator=torch.Generator().manual_seed(5)).to(dtype)
    expected = merge(x_PVD, 5).labels_PV
    density_peaks.is_exact.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(density_peaks, "inner_products", garbage)
        found = merge(x_PVD, 5).labels_PV
        patch.setattr(density_peaks, "is_exact", lambda _: True)
        assert not torch.equal(merge(x_PVD, 5).labels_PV, expected)
    density_peaks.is_exact.cache_clear()
    assert torch.equal(found, expected)


@pytest.mark.slow
@given(
    values=st.lists(st.lists(st.integers(-3, 3), min_size=3, max_size=3), min_size=3, max_size=40),
    data=st.data(),
)
@settings(max_examples=150, deadline=None)
def test_ties_are_broken_by_the_index(values: list[list[int]], data: st.DataObject) -> None:
    """On small integers, where densities and distances tie all the time, the index decides as in the oracle."""
    x_VD = torch.tensor(values, dtype=torch.float32)
    n_clusters = data.draw(st.integers(1, len(values)))
    k = data.draw(st.integers(1, len(values) - 1))
    centres, labels = oracle(x_VD, n_clusters, k)
    merged = merge(x_VD[None], n_clusters, k)
    assert merged.centres_PC[0].tolist() == centres.tolist()
    assert merged.labels_PV[0].tolist() == labels.tolist()
    centres_PC, labels_PV = cluster_on_accelerator(x_VD[None], n_clusters, k)
    assert centres_PC[0].tolist() == centres.tolist()
    assert labels_PV[0].tolist() == labels.tolist()


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_accelerators_path_agrees_with_the_oracle(kind: str) -> None:
    """The batched torch form, run here on the CPU, chooses the oracle's centres and labels."""
    x_VD = features(kind)
    for n_clusters in (1, 8, 119, 120):
        centres, labels = oracle(x_VD, n_clusters, 5)
        centres_PC, labels_PV = cluster_on_accelerator(x_VD[None], n_clusters, 5)
        assert centres_PC[0].tolist() == centres.tolist()
        assert labels_PV[0].tolist() == labels.tolist()


def test_the_accelerator_leaves_few_patches_to_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """None of ordinary, offset, spread and padded features; all of features that tie."""
    left: list[int] = []
    cluster = density_peaks.cluster

    def counted(x_PVD: torch.Tensor, *given: Any) -> Any:
        left.append(len(x_PVD))
        return cluster(x_PVD, *given)

    monkeypatch.setattr(density_peaks, "cluster", counted)
    x_PVD = torch.stack([features(kind) for kind in ("ordinary", "offset", "spread", "padded")])
    cluster_on_accelerator(x_PVD, 8, 5)
    assert left == []
    cluster_on_accelerator(torch.arange(120.0).view(1, 120, 1).expand(3, -1, -1), 8, 5)
    assert left == [3]


@pytest.mark.parametrize("kind", ["ordinary", "padded"])
def test_double_precision_features_agree_with_the_oracle(kind: str) -> None:
    """float64 features take the same path with a finer error bound."""
    x_VD = features(kind).double()
    centres, labels = oracle(x_VD, 8, 5)
    merged = merge(x_VD[None], 8)
    assert merged.centres_PC[0].tolist() == centres.tolist()
    assert merged.labels_PV[0].tolist() == labels.tolist()


def test_equal_features_yield_one_centre() -> None:
    """Hundreds of padded features take one centre as long as other features are left."""
    x_VD = features("padded", 400, 64)
    merged = merge(x_VD[None], 101)
    padded = (merged.centres_PC[0] >= 100).sum()
    assert padded == 1


def test_every_cluster_keeps_its_centre_and_no_cluster_is_empty() -> None:
    """Even in a patch of equal features each centre belongs to its own cluster."""
    merged = merge(torch.ones(2, 10, 4), 4)
    assert merged.centres_PC.tolist() == [[0, 1, 2, 3]] * 2
    assert merged.labels_PV[0, :4].tolist() == [0, 1, 2, 3]
    assert torch.equal(merged.y_PCD, torch.ones(2, 4, 4))


def test_as_many_clusters_as_features_is_the_identity() -> None:
    """With n_clusters = V every feature is its own mean."""
    x_PVD = torch.randn(3, 20, 8, generator=torch.Generator().manual_seed(1))
    assert torch.equal(merge(x_PVD, 20).y_PCD, x_PVD)


def test_patches_do_not_depend_on_each_other() -> None:
    """A batch is merged as its patches are one by one, and twice alike."""
    x_PVD = torch.stack([features(kind) for kind in KINDS[:6]])
    together, again = merge(x_PVD, 9), merge(x_PVD, 9)
    assert torch.equal(together.y_PCD, again.y_PCD)
    for patch in range(6):
        alone = merge(x_PVD[patch : patch + 1], 9)
        assert torch.equal(alone.labels_PV[0], together.labels_PV[patch])


def test_pooling_spreads_the_gradient_over_the_cluster() -> None:
    """The gradient of a mean reaches each of its members as one over their number."""
    x_PVD = torch.randn(1, 30, 8, generator=torch.Generator().manual_seed(2)).requires_grad_()
    merged = merge(x_PVD, 4)
    merged.y_PCD.sum().backward()
    sizes_C = torch.bincount(merged.labels_PV[0])
    assert x_PVD.grad is not None
    assert torch.allclose(x_PVD.grad[0, :, 0], 1 / sizes_C[merged.labels_PV[0]])


@pytest.mark.parametrize("k", [1, 3, 9])
def test_a_reducer_merges_over_its_neighbours(k: int) -> None:
    """K is that of the point, and 5 where none is given."""
    x_PVD = torch.randn(2, 40, 6, generator=torch.Generator().manual_seed(k))
    assert torch.equal(Merging(k)(x_PVD, 7), merge(x_PVD, 7, k).y_PCD)
    assert torch.equal(Merging()(x_PVD, 7), merge(x_PVD, 7, 5).y_PCD)


def test_half_precision_features_keep_their_dtype() -> None:
    """bfloat16 features are clustered in float32 and pooled into bfloat16."""
    x_PVD = features("ordinary").bfloat16()[None]
    merged = merge(x_PVD, 8)
    assert merged.y_PCD.dtype == torch.bfloat16
    assert torch.equal(merged.labels_PV, merge(x_PVD.float(), 8).labels_PV)


@pytest.mark.parametrize(
    ("shape", "n_clusters", "k", "sentence"),
    [
        ((10, 4), 2, 5, r"shape \(10, 4\)"),
        ((1, 10, 4), 11, 5, "n_clusters is 11"),
        ((1, 10, 4), 0, 5, "n_clusters is 0"),
        ((1, 10, 4), 2, 10, "k is 10"),
        ((1, 10, 4), 2, 0, "k is 0"),
    ],
)
def test_impossible_requests_are_refused(shape: tuple[int, ...], n_clusters: int, k: int, sentence: str) -> None:
    """A wrong rank, more clusters than features and too many neighbours are each named in a sentence."""
    with pytest.raises(ValueError, match=sentence):
        merge(torch.zeros(shape), n_clusters, k)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_features_that_are_not_finite_are_refused(value: float) -> None:
    """One undefined or infinite value anywhere is an error, on both paths."""
    x_PVD = torch.zeros(2, 10, 4)
    x_PVD[1, 3, 2] = value
    with pytest.raises(FeaturesError, match="finite"):
        merge(x_PVD, 2)
    with pytest.raises(FeaturesError, match="finite"):
        cluster_on_accelerator(x_PVD, 2, 5)


def test_no_patches_make_no_clusters() -> None:
    """An empty batch is merged into an empty batch."""
    merged = merge(torch.zeros(0, 10, 4), 3)
    assert merged.y_PCD.shape == (0, 3, 4)
    assert merged.labels_PV.shape == (0, 10)
