"""Markov chains of rates: stationary shares, what a fit recovers, and files that are not chains."""

import json
from pathlib import Path

import numpy as np
import pytest

from harness.channel.markov import Chain, Markov, fit
from harness.channel.recording import RateRecording
from harness.errors import TraceError

GILBERT_ELLIOTT = Chain.gilbert_elliott(2e6, 1e5, 4.0, 0.5)


def _recorded(chain: Chain, seed: int, duration_s: float) -> RateRecording:
    pieces = Markov(chain, np.random.SeedSequence(seed)).covering(duration_s)
    return RateRecording(pieces.at_s, pieces.rate_bps, "drawn")


@pytest.mark.slow
def test_gilbert_elliott_spends_its_time_by_its_holding_times() -> None:
    """The long-run rate is the mean of both, weighted by how long each lasts, in theory and in a realisation."""
    expected = (2e6 * 4 + 1e5 * 0.5) / 4.5
    assert GILBERT_ELLIOTT.mean_bps() == pytest.approx(expected, rel=1e-12)
    link = Markov(GILBERT_ELLIOTT, np.random.SeedSequence(1))
    assert link.bits(0, 2e5) / 2e5 == pytest.approx(expected, rel=0.005)


def test_a_realisation_does_not_depend_on_the_order_of_queries() -> None:
    """Two links of one seed are the same link, however far each was extended before."""
    early, late = (Markov(GILBERT_ELLIOTT, np.random.SeedSequence(7)) for _ in range(2))
    late.covering(50_000.0)
    assert [early.finish(t, 10**6) for t in (0.0, 999.0, 20_000.0)] == [
        late.finish(t, 10**6) for t in (0.0, 999.0, 20_000.0)
    ]


def test_a_long_transfer_extends_the_realisation() -> None:
    """A transfer that needs more than the first thousand states extends the link, and conserves its bytes."""
    link = Markov(GILBERT_ELLIOTT, np.random.SeedSequence(3))
    n_bytes = 10**10
    assert link.bits(5.0, link.finish(5.0, n_bytes)) == pytest.approx(8 * n_bytes, rel=1e-9)


@pytest.mark.slow
def test_fit_recovers_a_chain() -> None:
    """Fitted to its own realisation, a chain has its rates, holding times and mean again."""
    found = fit([_recorded(GILBERT_ELLIOTT, 2, 50_000)], n_states=2, step_s=0.02)
    order = np.argsort(found.rate_bps)
    np.testing.assert_allclose(np.array(found.rate_bps)[order], [1e5, 2e6], rtol=0.03)
    np.testing.assert_allclose(np.array(found.hold_s)[order], [0.5, 4.0], rtol=0.06)
    assert found.mean_bps() == pytest.approx(GILBERT_ELLIOTT.mean_bps(), rel=0.01)


def test_fit_counts_nothing_across_a_gap_and_keeps_outages_apart() -> None:
    """Steps that touch a gap are left out, and a rate of zero is a state of its own."""
    rng = np.random.default_rng(0)
    rates = rng.choice([0.0, 1e6, 3e6], 2000)
    rates[500:600] = np.nan
    found = fit([RateRecording(np.arange(2001.0), rates, "gappy")], n_states=3, step_s=1.0)
    assert sorted(found.rate_bps) == pytest.approx([0.0, 1e6, 3e6])
    assert found.mean_bps() == pytest.approx(float(np.nanmean(rates)), rel=1e-6)


def test_fit_keeps_the_mean_rate_of_short_runs() -> None:
    """In runs that begin slowly and end fast each state is left as often as entered, and the mean rate is kept."""
    runs = [RateRecording(np.arange(51.0), np.linspace(1e5, 1e7 + k, 50), "ramp") for k in range(5)]
    found = fit(runs, n_states=4, step_s=1.0)
    assert found.mean_bps() == pytest.approx(np.linspace(1e5, 1e7, 50).mean(), rel=1e-4)
    assert len(found.rate_bps) == 4


def test_a_saved_chain_is_loaded_unchanged(tmp_path: Path) -> None:
    """What is saved is what is loaded."""
    GILBERT_ELLIOTT.save(tmp_path / "chain.json")
    assert Chain.load(tmp_path / "chain.json") == GILBERT_ELLIOTT


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"hold_s": [1.0]}, "2 rates need 2 holding times"),
        ({"jump": [[0, 0.5], [1, 0]]}, "must sum to 1"),
        ({"jump": [[1, 0], [0, 1]]}, "reachable"),
        ({"rate_bps": [0.0, 0.0]}, "at least one rate"),
        ({"rate_bps": [-1.0, 1.0]}, "greater than or equal to 0"),
        ({"hold_s": [0.0, 1.0]}, "greater than 0"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_file_that_is_no_chain_is_refused_in_one_sentence(
    tmp_path: Path, change: dict[str, object], said: str
) -> None:
    """The sentence names the file and what is wrong in it."""
    path = tmp_path / "chain.json"
    path.write_text(json.dumps(GILBERT_ELLIOTT.model_dump() | change))
    with pytest.raises(TraceError, match=said) as caught:
        Chain.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_too_short_a_recording_cannot_be_fitted() -> None:
    """At least ten steps per state are needed."""
    with pytest.raises(TraceError, match="too few"):
        fit([RateRecording(np.array([0.0, 5.0]), np.array([1e6]), "short")], n_states=4, step_s=0.5)
