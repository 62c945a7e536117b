"""The numbers of :data:`harness.claims.model.METRICS` from a run, each with an interval.

All numbers of one test have intervals at 1 - alpha together: each of n at 1 - alpha / n. A number that is not available
has no interval, and a reason.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from harness.analysis import Analysis
from harness.analysis.means import Estimate
from harness.claims import compared, counted
from harness.claims.evaluation import Evaluation, exact, pipelines_of, refused
from harness.claims.model import Criterion
from harness.claims.verdict import Item


def of_run(evaluation: Evaluation) -> Sequence[Item]:
    """The numbers of a test that needs a run; as ratios or changes, whichever the test's metric is."""
    name = evaluation.test.metric
    items = _FUNCTIONS[_RATIO_OF.get(name, name)](evaluation)
    if name in _RATIO_OF:
        items = [dataclasses.replace(item, estimate=item.estimate.plus(-1.0)) for item in items]
    return items


def of_architecture(test: Criterion, backbone: str) -> Sequence[Item]:
    """The numbers of a test that needs no run; raises CheckpointError for a backbone without a published one."""
    if test.metric == "trainable_parameters":
        return [Item(label=backbone, estimate=exact(counted.trainable_parameters(backbone)))]
    n_c, of_all = float(str(test.at["n_c"])), counted.features_a_patch(backbone)
    return [Item(label=f"{n_c:.0f} of {of_all}", estimate=exact(n_c / of_all))]


def quotient(items: Sequence[Item], others: Sequence[Item]) -> Sequence[Item]:
    """Numbers of one run over the same of another: independent, so that the logs' distances add in squares."""
    known = {(item.label, item.rate_bps): item.estimate for item in others}
    found = []
    for item in items:
        a, b = item.estimate, known.get((item.label, item.rate_bps), refused("the other run has no such number"))
        if reason := a.reason or b.reason:
            found.append(dataclasses.replace(item, estimate=refused(reason)))
            continue
        with np.errstate(all="ignore"):
            low = math.hypot(*(float(np.log(v / w)) for v, w in ((a.value, a.low), (b.high, b.value))))
            high = math.hypot(*(float(np.log(v / w)) for v, w in ((a.high, a.value), (b.value, b.low))))
        value = a.value / b.value
        found.append(
            dataclasses.replace(
                item, estimate=Estimate(value, value * float(np.exp(-low)), value * float(np.exp(high)))
            )
        )
    return found


def sources(run: Analysis, test: Criterion) -> set[str]:
    """The sources of the rows that a test rests on: of stages, or of what halves need; answers' are the run's."""
    if not test.about.timed and test.side is None:
        return {"reported" if run.is_estimated else run.bytes_source}
    mine = [pipelines_of(run)[name] for name in (str(test.of), *test.over)]
    rows = run.record.stages if test.about.timed else run.record.resources
    return set(rows.filter(pc.is_in(rows["pipeline"], pa.array(mine)))["source"].to_pylist())


_RATIO_OF = {"bytes_change": "bytes_ratio", "mean_bytes_change": "mean_bytes_ratio", "latency_change": "latency_ratio"}

_FUNCTIONS: Mapping[str, Callable[[Evaluation], list[Item]]] = {
    "bytes_ratio": compared.bytes_ratio,
    "mean_bytes_ratio": compared.mean_bytes_ratio,
    "latency_ratio": compared.latency_ratio,
    "server_time_ratio": compared.server_time_ratio,
    "rate_gain": compared.rate_gain,
    "latency_s": compared.latency_s,
    "link_share": compared.link_share,
    "score_share": compared.score_share,
    "neighbours_share": compared.neighbours_share,
    "operations_ratio": counted.operations_ratio,
    "memory_ratio": counted.memory_ratio,
    "visual_share": counted.visual_share,
    "likelihood_lead": counted.likelihood_lead,
    "z_share": counted.z_share,
    "experts_share": counted.experts_share,
    "experts_used": counted.experts_used,
}
