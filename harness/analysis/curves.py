"""Schemes at equal score by their curves: bytes, latency, and the differences that Bjontegaard averages.

A ladder's curve is smooth and increasing in u, the log of the bytes scaled to 0 at its smallest point and 1 at its
largest:

    s(u) = c + A (1 - exp(-k u)) / (1 - exp(-k)),        A >= 0,

with k = 0 the line c + A u. A is what the score gains from end to end. c, A and, from three points on, k are the least
weighted squares: for each k of a grid from -2 to 6 the other two in closed form, the best k kept. All resamples of a
joint bootstrap are fitted at once: a resample draws pictures, the same for every scheme, point and for the reference.

- At equal score the curve is solved for the target, u* = s^-1(target), in every resample, the reference's own resampled
  score in it. A u* below 0 or above 1 is beyond what was measured and counts as infinite, so that an interval may be
  unbounded. A ratio of bytes that is infinite over infinite is undefined and counts against both ends.
- BD-score is the mean of s_test - s_anchor over the logs of bytes that both measured: bytes are known, the noise is
  vertical. BD-rate is exp(mean of log bytes_test - log bytes_anchor) - 1 over a band of scores (VCEG-M33, 2001). The
  band is fixed once, from the curves of all data; a resample whose curves do not reach it is undefined, and above 2.5 %
  of such there is no BD-rate.
- Where the lower 97.5 % bound of A is not above 0, the slope is not established, and nothing is said at equal score.
- Resamples of few clusters of questions are too much alike, of one cluster all the same: fewer than
  :data:`harness.analysis.means.MIN_PICTURES` establish no slope and give no interval.

Intervals are the central ones of the resamples.

    P points of a ladder   B resamples   K values of k   S timed pictures
"""

import dataclasses
import math
from typing import Literal, Self

import numpy as np
import scipy.interpolate
from numpy.typing import ArrayLike, NDArray

from harness.analysis.means import Estimate, too_few

Floats = NDArray[np.float64]

UNDEFINED_SHARE = 0.025
"""BD-rate is refused if it is undefined in more than this share of the resamples."""

_K = np.linspace(-2.0, 6.0, 33)
_BAND = np.linspace(0.1, 0.9, 33)
"""Where over a band of scores BD-rate looks: the outer tenths of the band are the curves' own ends."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Curves:
    """Fitted curves, one a resample: c, A and k (B,); ``low`` and ``span`` are of the log of the bytes."""

    low: float
    span: float
    floor_B: Floats
    gain_B: Floats
    bend_B: Floats

    def at(self, u: ArrayLike) -> Floats:
        """The scores at u (U,), (B, U)."""
        return self.floor_B[:, None] + self.gain_B[:, None] * _shape(np.asarray(u, np.float64), self.bend_B[:, None])

    def solved(self, score_BU: Floats) -> Floats:
        """Where (u) the curves have these scores (B, U): -inf below what a curve ever has, +inf above it."""
        with np.errstate(divide="ignore", invalid="ignore"):
            share_BU = (score_BU - self.floor_B[:, None]) / self.gain_B[:, None]
            k = self.bend_B[:, None]
            left_BU = 1 + share_BU * np.expm1(-k)
            u_BU = np.where(np.abs(k) < 1e-9, share_BU, -np.log(left_BU) / k)
        never = np.where(k > 0, np.inf, -np.inf)
        u_BU = np.where((left_BU <= 0) & (np.abs(k) >= 1e-9), never, u_BU)
        flat = np.broadcast_to(self.gain_B[:, None] <= 0, u_BU.shape)
        return np.where(flat, np.where(score_BU > self.floor_B[:, None], np.inf, -np.inf), u_BU)

    def log_bytes(self, u: Floats | float) -> Floats:
        """The natural log of the bytes at u."""
        return np.asarray(self.low + self.span * u)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ladder:
    """The points of one scheme with one n_c: mean bytes (P,), scores (P,), and these in every resample (B, P).

    ``few`` is why the clusters that were resampled give no interval (:func:`harness.analysis.means.too_few`).
    """

    name: str
    payload_bytes: Floats
    score: Floats
    score_B: Floats
    curve: Curves
    curves: Curves
    few: str = ""

    @classmethod
    def fit(
        cls,
        name: str,
        payload_bytes: ArrayLike,
        score_P: ArrayLike,
        score_BP: ArrayLike,
        *,
        clusters: int | None = None,
    ) -> Self:
        """The ladder with its curve and those of the resamples.

        ``payload_bytes`` (P,) above 0 and all different, at least two; ``score_P`` in the metric's unit; ``score_BP``
        from one joint bootstrap of as many ``clusters`` of questions, any number where they are not given. A point's
        weight is one over its variance in it. Raises ValueError otherwise.
        """
        n_bytes = np.asarray(payload_bytes, dtype=np.float64)
        score, score_B = np.asarray(score_P, dtype=np.float64), np.asarray(score_BP, dtype=np.float64)
        if n_bytes.ndim != 1 or score.shape != n_bytes.shape or score_B.shape[1:] != n_bytes.shape:
            raise ValueError(f"{name}: {n_bytes.shape} bytes, {score.shape} scores, {score_B.shape} resampled ones")
        if np.unique(n_bytes).size < max(2, n_bytes.size) or not (n_bytes > 0).all():
            raise ValueError(f"{name}: points of {n_bytes.tolist()} bytes; a curve needs two or more, all different")
        order = np.argsort(n_bytes)
        n_bytes, score, score_B = n_bytes[order], score[order], score_B[:, order]
        variance_P = score_B.var(axis=0)
        weight_P = 1 / np.maximum(variance_P, max(float(variance_P.max()) / 16, 1e-12))
        return cls(
            name=name,
            payload_bytes=n_bytes,
            score=score,
            score_B=score_B,
            curve=_fit(np.log(n_bytes), score[None], weight_P),
            curves=_fit(np.log(n_bytes), score_B, weight_P),
            few="" if clusters is None else too_few(clusters),
        )

    @property
    def slope_established(self) -> bool:
        """Whether it is established that the score grows from the smallest point to the largest."""
        return not self.few and float(_quantile(self.curves.gain_B, 0.025)) > 0

    def reached(self, target: float, target_B: Floats) -> tuple[float, Floats]:
        """u* of all data and of each resample, (B,): infinite beyond the measured range."""
        u = float(self.curve.solved(np.array([[target]]))[0, 0])
        u_B = self.curves.solved(target_B[:, None])[:, 0]
        return u, np.where(u_B < 0, -np.inf, np.where(u_B > 1, np.inf, u_B))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EqualScore:
    """Two ladders at one score: bytes of each, and the test's over the anchor's; ``undefined`` is a share of resamples.

    A ratio's ends are 0 or infinite where it is unbounded. Where ``reason`` is not empty there is nothing else: NaN.
    """

    target: float
    anchor_bytes: Estimate
    test_bytes: Estimate
    ratio: Estimate
    undefined: float
    reason: str


def equal_score(
    anchor: Ladder, test: Ladder, target: float, target_B: ArrayLike | None = None, *, confidence: float = 0.95
) -> EqualScore:
    """Bytes at equal score: the test's over the anchor's where both curves have the score ``target``.

    ``target_B`` (B,) is the target in every resample, such as t times the reference's resampled score; without it the
    target is a fixed number. The target must lie within the measured range of both curves.
    """
    targets = np.full(anchor.score_B.shape[0], target) if target_B is None else np.asarray(target_B, np.float64)
    nothing = Estimate(math.nan, math.nan, math.nan)
    logs, values = [], []
    for ladder in (anchor, test):
        u, u_B = ladder.reached(target, targets)
        if reason := _refused(ladder, u, target):
            return EqualScore(
                target=target, anchor_bytes=nothing, test_bytes=nothing, ratio=nothing, undefined=1.0, reason=reason
            )
        logs.append(ladder.curves.log_bytes(u_B))
        values.append(math.exp(ladder.curve.log_bytes(u)))
    with np.errstate(invalid="ignore"):
        ratio_B = logs[1] - logs[0]
    return EqualScore(
        target=target,
        anchor_bytes=_estimate(values[0], logs[0], confidence),
        test_bytes=_estimate(values[1], logs[1], confidence),
        ratio=_estimate(values[1] / values[0], ratio_B, confidence),
        undefined=float(np.isnan(ratio_B).mean()),
        reason="",
    )


def over_targets(anchor: Ladder, test: Ladder, *, targets: int = 9, confidence: float = 0.95) -> list[EqualScore]:
    """:func:`equal_score` at targets evenly spread over :func:`score_band`, lowest first; empty where there is no band.

    The least and the largest of the ratios are the range that a saving "across various targets" has.
    """
    low, high = score_band(anchor, test)
    if high <= low:
        return []
    # The ends themselves are where a curve's own range ends: half of the resamples do not reach them.
    wanted = low + (high - low) * (np.arange(targets) + 0.5) / targets
    return [equal_score(anchor, test, target, confidence=confidence) for target in wanted.tolist()]


def latency_at_equal_score(
    anchor: Ladder,
    test: Ladder,
    target: float,
    target_B: ArrayLike | None,
    *,
    anchor_link_P: ArrayLike,
    test_link_P: ArrayLike,
    anchor_timed_SP: ArrayLike,
    test_timed_SP: ArrayLike,
    level_BPs: tuple[Floats, Floats] | None = None,
    confidence: float = 0.95,
    seed: int = 0,
) -> tuple[Estimate, Estimate, Estimate]:
    """T of the anchor and of the test where both have the score ``target``, in seconds, and the second over the first.

        T = (device + server at u*) + (link at bytes(u*))

    Times between two points are on a line over the log of bytes, link times on one over the bytes, as bits over a rate
    are. ``..._link_P`` (P,) are the mean link times of each point's payloads, in seconds, known exactly.
    ``..._timed_SP`` (S, P) are the pictures' mean times, device and server together, of the same pictures for both.
    All are of the points by their bytes upwards. The uncertainty of the timed ones joins
    that of u*: each resample draws errors with the pictures' joint covariance over S, as Student's with S - 1 degrees.
    ``level_BPs`` are by how much, in logs, the level of each point's times is off in each resample, of the anchor and
    of the test (:func:`joint_errors` of rounds or starts); nothing where it is not given.
    What :func:`equal_score` refuses is refused here with its reason.
    """
    targets = np.full(anchor.score_B.shape[0], target) if target_B is None else np.asarray(target_B, np.float64)
    timed = [np.asarray(t, dtype=np.float64) for t in (anchor_timed_SP, test_timed_SP)]
    links = [np.asarray(link, dtype=np.float64) for link in (anchor_link_P, test_link_P)]
    n_pictures, n_B = timed[0].shape[0], targets.size
    if any(
        t.shape != (n_pictures, x.score.size) or link.shape != x.score.shape
        for t, link, x in zip(timed, links, (anchor, test), strict=True)
    ):
        raise ValueError(f"times of shapes {timed[0].shape} and {timed[1].shape} do not go with the two ladders")
    error_BS = joint_errors(np.random.default_rng(seed), n_B, n_pictures)
    values, drawn = [], []
    for ladder, timed_SP, link_P, level_BP in zip((anchor, test), timed, links, level_BPs or (None, None), strict=True):
        u, u_B = ladder.reached(target, targets)
        if reason := _refused(ladder, u, target):
            refused = Estimate(math.nan, math.nan, math.nan, reason)
            return refused, refused, refused
        at_P = (np.log(ladder.payload_bytes) - ladder.curve.low) / ladder.curve.span
        mean_P = timed_SP.mean(axis=0)
        timed_BP = mean_P + error_BS @ (timed_SP - mean_P)
        if level_BP is not None:
            timed_BP = timed_BP * np.exp(np.clip(level_BP, -20, 20))
        within_B = np.clip(u_B, 0, 1)
        left_B = np.clip(np.searchsorted(at_P, within_B, side="right") - 1, 0, at_P.size - 2)
        share_B = (within_B - at_P[left_B]) / (at_P[left_B + 1] - at_P[left_B])
        row_B = np.arange(n_B)
        timed_B = timed_BP[row_B, left_B] * (1 - share_B) + timed_BP[row_B, left_B + 1] * share_B
        total_B = timed_B + np.interp(np.exp(ladder.curves.log_bytes(within_B)), ladder.payload_bytes, link_P)
        # Beyond the range a payload is infinite or close to nothing: the time is unbounded on that side.
        drawn.append(np.where(np.isinf(u_B), u_B, np.log(np.maximum(total_B, 1e-12))))
        link_s = float(np.interp(math.exp(ladder.curve.log_bytes(u)), ladder.payload_bytes, link_P))
        values.append(float(np.interp(u, at_P, mean_P)) + link_s)
    with np.errstate(invalid="ignore"):
        ratio_B = drawn[1] - drawn[0]
    return (
        _estimate(values[0], drawn[0], confidence),
        _estimate(values[1], drawn[1], confidence),
        _estimate(values[1] / values[0], ratio_B, confidence),
    )


def joint_errors(rng: np.random.Generator, n_resamples: int, n_units: int) -> Floats:
    """Errors (B, U): times deviations from the mean of U units, those of the mean, Student's with U - 1 degrees."""
    freedom = max(n_units - 1, 1)
    error_BU = rng.normal(size=(n_resamples, n_units)) / math.sqrt(n_units * freedom)
    return np.asarray(error_BU * np.sqrt(freedom / rng.chisquare(freedom, n_resamples))[:, None])


def bd_score(anchor: Ladder, test: Ladder, *, confidence: float = 0.95) -> Estimate:
    """The mean gain in score of the test over the anchor at equal bytes, in the metric's unit.

    Over the log of the bytes that both ladders measured; NaN with a reason where they have none in common. Without an
    interval where either was resampled from too few clusters.
    """
    low = max(anchor.curve.low, test.curve.low)
    high = min(anchor.curve.low + anchor.curve.span, test.curve.low + test.curve.span)
    if high <= low:
        return Estimate(math.nan, math.nan, math.nan, f"{anchor.name} and {test.name} have no bytes in common")
    at = low + (high - low) * (np.arange(64) + 0.5) / 64

    def averaged(ladder: Ladder, curves: Curves) -> Floats:
        return np.asarray(curves.at((at - ladder.curve.low) / ladder.curve.span).mean(axis=1))

    value = float((averaged(test, test.curve) - averaged(anchor, anchor.curve))[0])
    if few := anchor.few or test.few:
        return Estimate(value, math.nan, math.nan, few)
    gain_B = averaged(test, test.curves) - averaged(anchor, anchor.curves)
    tail = (1 - confidence) / 2
    return Estimate(value, float(_quantile(gain_B, tail)), float(_quantile(gain_B, 1 - tail)))


def score_band(anchor: Ladder, test: Ladder) -> tuple[float, float]:
    """The scores that both curves of all data have within what they measured; the first above the second where none."""
    ends = [ladder.curve.at([0.0, 1.0])[0] for ladder in (anchor, test)]
    return float(max(end[0] for end in ends)), float(min(end[1] for end in ends))


def bd_rate(
    anchor: Ladder, test: Ladder, *, band: tuple[float, float] | None = None, confidence: float = 0.95
) -> tuple[Estimate, float]:
    """The test's mean bytes over the anchor's at equal score, less 1, and the share of resamples where it is undefined.

    ``band`` is a band of scores fixed beforehand, :func:`score_band` where it is not given; its outer tenths are left
    out. A resample's curve may go on by its whole measured span beyond either end. NaN with a reason where a slope is
    not established, the band is empty, or more than 2.5 % of the resamples are undefined.
    """
    low, high = band or score_band(anchor, test)
    reason = next((_flat(ladder) for ladder in (anchor, test) if not ladder.slope_established), "")
    if not reason and high <= low:
        reason = f"{anchor.name} and {test.name} have no scores in common"
    if reason:
        return Estimate(math.nan, math.nan, math.nan, reason), 1.0
    scores = (low + (high - low) * _BAND)[None]

    def averaged(ladder: Ladder, curves: Curves) -> Floats:
        u_BU = curves.solved(np.broadcast_to(scores, (curves.gain_B.size, _BAND.size)))
        u_BU = np.where((u_BU >= -1) & (u_BU <= 2), u_BU, np.nan)
        return np.asarray(ladder.curve.log_bytes(u_BU).mean(axis=1))

    value = float((averaged(test, test.curve) - averaged(anchor, anchor.curve))[0])
    log_B = averaged(test, test.curves) - averaged(anchor, anchor.curves)
    undefined = float(np.isnan(log_B).mean())
    if undefined > UNDEFINED_SHARE or math.isnan(value):
        reason = f"undefined in {undefined:.1%} of the resamples, above {UNDEFINED_SHARE:.1%}"
        return Estimate(math.nan, math.nan, math.nan, reason), undefined
    ratio = _estimate(math.exp(value), log_B, confidence)
    return ratio.plus(-1.0), undefined


def bd_classic(
    anchor_bytes: ArrayLike,
    anchor_score: ArrayLike,
    test_bytes: ArrayLike,
    test_score: ArrayLike,
    kind: Literal["pchip", "akima"] = "pchip",
) -> tuple[float, float]:
    """BD-rate (a ratio less 1) and BD-score as codecs report them: interpolated through the points, without intervals.

    Piecewise-cubic Hermite (JCTVC-L1100, JVET-T2010) or Akima interpolation (Herglotz et al., 2022) of the score over
    log bytes and of log bytes over the score. NaN for the one that is undefined: bytes or scores that do not increase,
    or nothing in common. Agrees with the package bjontegaard 1.3.0 (FAU-LMS).
    """
    anchor, test = _sorted(anchor_bytes, anchor_score), _sorted(test_bytes, test_score)
    gain = _mean_difference(anchor, test, kind)
    rate = _mean_difference(anchor[::-1], test[::-1], kind)
    return math.expm1(rate), gain


def _sorted(n_bytes: ArrayLike, score: ArrayLike) -> tuple[Floats, Floats]:
    log_bytes, found = np.log(np.asarray(n_bytes, np.float64)), np.asarray(score, np.float64)
    order = np.argsort(log_bytes)
    return log_bytes[order], found[order]


def _mean_difference(anchor: tuple[Floats, Floats], test: tuple[Floats, Floats], kind: str) -> float:
    low, high = max(anchor[0].min(), test[0].min()), min(anchor[0].max(), test[0].max())
    if high <= low or any(x.size < 2 or not (np.diff(x) > 0).all() for x, _ in (anchor, test)):
        return math.nan
    integrals = []
    for x, y in (anchor, test):
        if x.size == 2:
            curve = scipy.interpolate.PPoly(np.array([[(y[1] - y[0]) / (x[1] - x[0])], [y[0]]]), x)
        else:
            of_kind = scipy.interpolate.PchipInterpolator if kind == "pchip" else scipy.interpolate.Akima1DInterpolator
            curve = of_kind(x, y)
        integrals.append(float(curve.integrate(low, high)))
    return (integrals[1] - integrals[0]) / float(high - low)


def _fit(log_bytes_P: Floats, score_BP: Floats, weight_P: Floats) -> Curves:
    low, span = float(log_bytes_P[0]), float(log_bytes_P[-1] - log_bytes_P[0])
    u_P, weight_P = (log_bytes_P - low) / span, weight_P / weight_P.sum()
    k_K = _K if u_P.size > 2 else np.zeros(1)
    shape_KP = _shape(u_P, k_K[:, None])
    centre_K = shape_KP @ weight_P
    from_centre_KP = (shape_KP - centre_K[:, None]) * weight_P
    mean_B = score_BP @ weight_P
    through_BK = score_BP @ from_centre_KP.T
    spread_K = (from_centre_KP * shape_KP).sum(axis=1)
    # The least squares for each k: what a gain above 0 takes off the scores' own scatter is through^2 / spread.
    best_B = (np.maximum(through_BK, 0) ** 2 / spread_K).argmax(axis=1)
    gain_B = np.maximum(through_BK[np.arange(best_B.size), best_B], 0) / spread_K[best_B]
    return Curves(low=low, span=span, floor_B=mean_B - gain_B * centre_K[best_B], gain_B=gain_B, bend_B=k_K[best_B])


def _shape(u: Floats, k: Floats) -> Floats:
    """(1 - exp(-k u)) / (1 - exp(-k)), u where k is 0."""
    u, k = np.broadcast_arrays(u, k)
    safe = np.where(np.abs(k) < 1e-9, 1.0, k)
    return np.where(np.abs(k) < 1e-9, u, np.expm1(-safe * u) / np.expm1(-safe))


def _refused(ladder: Ladder, u: float, target: float) -> str:
    if not ladder.slope_established:
        return _flat(ladder)
    if not 0 <= u <= 1:
        ends = ladder.curve.at([0.0, 1.0])[0]
        return f"{ladder.name}: its points score {ends[0]:.3g} to {ends[1]:.3g} by their curve; {target:.3g} is outside"
    return ""


def _flat(ladder: Ladder) -> str:
    return ladder.few or f"{ladder.name}: that its score grows with its bytes is not established"


def _estimate(value: float, log_B: Floats, confidence: float) -> Estimate:
    """The interval of exp(log_B) about ``value``; what is undefined counts against both ends."""
    tail = (1 - confidence) / 2
    low = _quantile(np.where(np.isnan(log_B), -np.inf, log_B), tail)
    high = _quantile(np.where(np.isnan(log_B), np.inf, log_B), 1 - tail)
    return Estimate(value, float(np.exp(low)), float(np.exp(high)))


def _quantile(value_B: Floats, share: float) -> Floats:
    return np.asarray(np.quantile(value_B, share, method="inverted_cdf"))
