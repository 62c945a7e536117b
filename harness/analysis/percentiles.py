"""Percentiles and shares by pictures, and what a replay with queues may claim.

The repeats of a picture are not independent. What is averaged is the indicator of a picture's requests,

    x_s(t) = mean_r [y_sr <= t],        F(t) = mean_s x_s(t),

and a share is known as well as n independent requests would know it (Kish's design effect),

    n = S R / deff,        deff = (sum_s (x_s - F)^2 / (S (S - 1))) / (F (1 - F) / (S R)),        S <= n <= S R,

S where all pictures agree and nothing can be estimated. Pictures that do not count alike may be worth fewer than S:
there x_s is a picture's part of the share, not limited to 0 to 1, and n has no such limit. In a mean over H subtasks of
different sizes a picture of subtask h has the weight w_s = 1 / (H n_h), and the variance of the share is

    sum_s w_s^2 v_h,   v_h = (sum_{s in h} u_s^2 + 3 v) / (n_h + 2),   v = sum_s u_s^2 / (S - H),
    u_s = (x_s - F) / (S w_s).

Without the three pictures of v, the scatter in all subtasks, one of a single picture, or one whose few pictures agree,
would add nothing to it. With one such picture intervals covered 67 to 88 % where a subtask of 10 stands beside one of
190 and nine of ten pictures are right or more, with three 95 to 99 %; six cover less where a small subtask scatters
more than the others. Where all pictures agree n is 1 / sum_s w_s^2; with one subtask all is as above.

The interval of a share is Clopper and Pearson's with n (t_{n - 1} / t_{S - 1})^2 requests in place of n where n is
above S, as Korn and Graubard have it (Survey Methodology 24, 1998), since the design effect of few pictures is itself
uncertain. A percentile's interval is that of the share p, read back through F (Woodruff, Journal of the American
Statistical Association 47, 1952). A percentile is claimed only where n certifies it
(:func:`harness.analysis.latency.required_samples`).

    S pictures   R requests of each   H subtasks   K replications
"""

import dataclasses
import math

import numpy as np
import scipy.special
from numpy.typing import ArrayLike, NDArray

from harness.analysis.latency import required_samples
from harness.analysis.means import Estimate, too_few

Floats = NDArray[np.float64]

_ADDED = 3
"""How many pictures with the scatter in all subtasks are added to those of each."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Sized:
    """An estimate and ``effective``, n: how many independent requests would know it as well."""

    estimate: Estimate
    effective: float


def effective_size(inside_SR: ArrayLike, at_most: int | None = None, *, subtask_S: ArrayLike | None = None) -> float:
    """The effective size n of a share, from S to S R; ``inside_SR`` (S, R) says of each request whether it is inside.

    A column may also hold pictures' own shares (S, 1), from 0 to 1; n then goes up to ``at_most``, how many requests
    were timed, since replaying one of them again adds no information. Where pictures do not count alike it holds their
    parts of the share, whose mean is the share, and n may be below S. ``subtask_S`` names the subtask of each picture,
    where the share is a mean over subtasks that count alike.
    """
    inside_SR = _pictures_by_requests(inside_SR)
    n_pictures = inside_SR.shape[0]
    share_S = inside_SR.mean(axis=1)
    share = float(share_S.mean())
    _, n_H, weight_S = _subtasks(n_pictures, subtask_S)
    agreed = n_pictures if n_H.size == 1 else 1 / float(weight_S @ weight_S)
    if not 0 < share < 1 or n_pictures == n_H.size > 1:
        return float(agreed)
    most = max(at_most or inside_SR.size, n_pictures)
    between = variance_of_mean(share_S, subtask_S)
    if between == 0.0:
        return float(most)
    found = share * (1 - share) / between
    # Shares from 0 to 1 leave n at S - 1 or more, S being what they are worth; less comes of parts of unlike weight.
    # Parts are differences of scores, and their scatter is known to some 1e-7.
    least = n_pictures if found >= (n_pictures - 1) * (1 - 1e-5) else found
    return float(np.clip(found, least, most))


def variance_of_mean(part_S: ArrayLike, subtask_S: ArrayLike | None = None) -> float:
    """The variance of the mean of pictures' parts, (S,), estimated as at the top of the module.

    Without ``subtask_S`` it is that of a simple random sample, sum_s (x_s - F)^2 / (S (S - 1)); 0 of a single picture.
    """
    part_S = np.asarray(part_S, np.float64)
    n_pictures = part_S.size
    of_S, n_H, weight_S = _subtasks(n_pictures, subtask_S)
    square_S = ((part_S - part_S.mean()) / (n_pictures * weight_S)) ** 2
    within = float(square_S.sum()) / max(n_pictures - n_H.size, 1)
    variance_H = (np.bincount(of_S, weights=square_S) + _ADDED * within) / (n_H + _ADDED - 1)
    return float(variance_H @ (1 / (n_H.size**2 * n_H)))


def _subtasks(n_pictures: int, subtask_S: ArrayLike | None) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
    """Each picture's subtask by number, (S,), how many pictures each has, (H,), and each picture's weight, (S,)."""
    names_S = np.zeros(n_pictures) if subtask_S is None else subtask_S
    _, of_S, n_H = np.unique(names_S, return_inverse=True, return_counts=True)
    return of_S, n_H, 1 / (n_H.size * n_H[of_S])


def share(
    inside_SR: ArrayLike, *, at_most: int | None = None, subtask_S: ArrayLike | None = None, confidence: float = 0.95
) -> Sized:
    """The share of requests that are inside, such as those within a deadline, from 0 to 1.

    ``inside_SR``, ``at_most`` and ``subtask_S`` as of :func:`effective_size`; what was never answered is not inside.
    Fewer than :data:`harness.analysis.means.MIN_PICTURES` pictures give no interval.
    """
    inside_SR = _pictures_by_requests(inside_SR)
    value, effective = float(inside_SR.mean()), effective_size(inside_SR, at_most, subtask_S=subtask_S)
    if reason := too_few(inside_SR.shape[0]):
        return Sized(estimate=Estimate(value, math.nan, math.nan, reason), effective=effective)
    low, high = _clopper_pearson(value, effective, inside_SR.shape[0], confidence)
    return Sized(estimate=Estimate(value, low, high), effective=effective)


def percentile(seconds_SR: ArrayLike, p: float, *, confidence: float = 0.95) -> Sized:
    """The time that the share ``p`` of requests does not exceed, by nearest rank; infinity for one never answered.

    ``seconds_SR`` (S, R), p between 0 and 1. Where n does not certify p there is neither value nor interval (NaN), and
    the reason says how large n is and would have to be. An end that no request reaches is infinite. Raises ValueError
    for NaN among the times and for p out of range.
    """
    seconds_SR = _pictures_by_requests(seconds_SR)
    if not 0 < p < 1:
        raise ValueError(f"a percentile's share is {p:g}; it is between 0 and 1")
    if np.isnan(seconds_SR).any():
        raise ValueError("a time is NaN; a request that was never answered is infinite")
    ranked = np.sort(seconds_SR, axis=None)
    value = _at_share(ranked, p)
    inside_SR = seconds_SR <= value
    effective, ends = effective_size(inside_SR), ends_of_percentile(inside_SR, p, confidence=confidence)
    if isinstance(ends, str):
        return Sized(estimate=Estimate(math.nan, math.nan, math.nan, ends), effective=effective)
    low, high = ends
    top = _at_share(ranked, high) if high < 1 else math.inf
    return Sized(estimate=Estimate(value, _at_share(ranked, low), top), effective=effective)


def ends_of_percentile(inside_SR: ArrayLike, p: float, *, confidence: float = 0.95) -> tuple[float, float] | str:
    """The shares between which the interval of a percentile is read, or why there is none.

    ``inside_SR`` says which requests the percentile is not exceeded by, or holds pictures' shares of them (S, 1).
    """
    inside_SR = _pictures_by_requests(inside_SR)
    effective, needed = effective_size(inside_SR), required_samples(p)
    if reason := too_few(inside_SR.shape[0]):
        return reason
    if effective < needed:
        return f"p{100 * p:g} needs {needed} independent requests; these are worth {effective:.0f}"
    return _clopper_pearson(p, effective, inside_SR.shape[0], confidence)


def over_replications(value_K: ArrayLike, *, confidence: float = 0.95) -> Estimate:
    """The mean of a statistic over independent replications of a simulation, with Student's interval.

    This is the simulator's own error, for a system whose pictures are all there are (Law, Simulation Modeling and
    Analysis, 9.4.1): it shrinks with more replications, and says nothing about other pictures. Fewer than two, or one
    that is not finite, give no interval.
    """
    value_K = np.asarray(value_K, dtype=np.float64)
    mean = float(value_K.mean())
    if value_K.size < 2 or not np.isfinite(value_K).all():
        return Estimate(mean, math.nan, math.nan, "independent replications: at least two finite ones are needed")
    t = float(scipy.special.stdtrit(value_K.size - 1, (1 + confidence) / 2))
    half = t * float(value_K.std(ddof=1)) / math.sqrt(value_K.size)
    return Estimate(mean, mean - half, mean + half)


def utilisation(requests_hz: float, service_s: float, servers: int) -> float:
    """The load rho = lambda E[S] / c: the work that comes in a second, over what the servers can do."""
    return requests_hz * service_s / servers


def unstable(rho: float, where: str = "") -> str:
    """``unstable: utilisation 1.3`` where the queue grows without end (rho >= 1), else empty.

    Such a system has no mean and no percentiles: what a replay shows of it grows with the replay's length. ``where``
    names what is saturated, such as ``server`` or ``uplink``.
    """
    return f"unstable: utilisation {rho:.3g}{f' of the {where}' if where else ''}" if rho >= 1 else ""


def _clopper_pearson(share_: float, effective: float, n_pictures: int, confidence: float) -> tuple[float, float]:
    tail = (1 + confidence) / 2
    degrees = max(effective, n_pictures) - 1
    wide = scipy.special.stdtrit(degrees, tail) / scipy.special.stdtrit(n_pictures - 1, tail)
    n = effective * float(wide) ** 2
    inside = share_ * n
    low = float(scipy.special.betaincinv(inside, n - inside + 1, 1 - tail)) if inside > 0 else 0.0
    high = float(scipy.special.betaincinv(inside + 1, n - inside, tail)) if inside < n else 1.0
    return low, high


def _at_share(ranked: Floats, share_: float) -> float:
    """The least value that the share of all does not exceed; ``ranked`` are in rising order."""
    return float(ranked[max(math.ceil(share_ * ranked.size * (1 - 1e-12)) - 1, 0)])


def _pictures_by_requests(values_SR: ArrayLike) -> Floats:
    found = np.asarray(values_SR, dtype=np.float64)
    if found.ndim != 2 or found.size == 0:
        raise ValueError(f"values are of shape {found.shape}; they must be pictures by requests, (S, R)")
    return found
