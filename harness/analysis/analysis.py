"""One run's analysis: each quantity that is computed from its rows, once, for whoever shows it."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self, get_args

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from harness.analysis import breakdown, cells, comparison, energy, latency, means, pacing, precision
from harness.analysis.cells import Population, Setting
from harness.analysis.curves import Ladder
from harness.analysis.select import Answers, Equality, Key, ladders_of, select
from harness.errors import ResultsError, unknown_name
from harness.records import Quantity, Side
from harness.replay.cell import Cell
from harness.replay.profile import Profile, sent_bytes
from harness.runs import illustrations
from harness.runs.illustrations import Illustrations
from harness.runs.provenance import UNAVAILABLE, Manifest
from harness.runs.store import Record, Run, complete_runs
from harness.scenario.replay import ConstantUplink

_UPLINK = ["replay", "channel", "users"]


class Analysis:
    """What the rows of a run say; a property is computed when it is first asked for, and then the same object.

    Tables are in the order of the scenario's pipelines. What takes points takes the run's declared
    :class:`harness.analysis.select.Equality`; all times are in seconds. A quantity raises ResultsError where the rows
    that it needs contradict each other.
    """

    def __init__(self, record: Record) -> None:
        self.record = record
        self._profiles: dict[tuple[str, str], Profile] = {}
        self._ladders_in: dict[str, Mapping[Key, Ladder]] = {}

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The analysis of a complete run; raises what :meth:`harness.runs.store.Run.read` raises."""
        return cls(Run.read(folder))

    @classmethod
    def read_all(cls, paths: Sequence[Path]) -> list[Self]:
        """The analyses of runs, each once: a path is a run's folder, or one that holds complete runs.

        Raises ResultsError where a path holds none, and what :meth:`read` raises.
        """
        folders = [folder for path in paths for folder in complete_runs(path)]
        return [cls.read(folder) for folder in {folder.resolve(): folder for folder in folders}.values()]

    @property
    def manifest(self) -> Manifest:
        """What the run is and where it comes from."""
        return self.record.manifest

    @cached_property
    def reasons(self) -> tuple[str, ...]:
        """What keeps the run from being VALID: the manifest's reasons, and those that its rows and facts give now.

        A manifest's VALID is never believed: every rule of :mod:`harness.analysis.validity` is judged again.
        """
        from harness.analysis import validity

        return tuple(dict.fromkeys((*self.manifest.reasons, *validity.reasons(self))))

    @property
    def validity(self) -> str:
        """``VALID`` or ``INVALID``, as judged now."""
        return "INVALID" if self.reasons else "VALID"

    @cached_property
    def equality(self) -> Equality:
        """What equal score means in this run."""
        return Equality.of(self.manifest)

    @cached_property
    def answers(self) -> Answers:
        """The verdicts of every point: :class:`harness.analysis.select.Answers`."""
        return Answers(self.record.outcomes, self.record.samples, self.equality, self.manifest.benchmarks)

    @cached_property
    def points(self) -> pd.DataFrame:
        """Every operating point with its bytes and score: :func:`harness.analysis.select.select`.

        Where no score is claimed (:attr:`scored`) the first point that the scenario declares of each pipeline stands
        for it, as selected.
        """
        found = self._in_order(select(self.answers, ladders_of(self.manifest.points)))
        if not self.scored:
            first = {pipeline: next(iter(labels), "") for pipeline, labels in self.manifest.points.items()}
            found["selected"] = found["point"] == found["pipeline"].map(first)
        return found

    @property
    def scored(self) -> bool:
        """Whether scores are claimed: the reference scores more than 0 in every benchmark."""
        return self.answers.scored

    @cached_property
    def reference(self) -> "pd.Series[float]":
        """The reference's row of :attr:`points`."""
        return self.points[self.points["reference"]].iloc[0]

    @cached_property
    def benchmarks(self) -> pd.DataFrame:
        """:attr:`points` in each benchmark by itself: :func:`harness.analysis.breakdown.by_benchmark`."""
        record, names = self.record, self.manifest.benchmarks
        if len(names) == 1:
            return pd.concat([pd.DataFrame({"benchmark": names[0]}, index=self.points.index), self.points], axis=1)
        found = breakdown.by_benchmark(
            record.outcomes, record.samples, self.equality, names, ladders_of(self.manifest.points)
        )
        return self._in_order(found)

    @cached_property
    def categories(self) -> pd.DataFrame:
        """Every point's score in each category: :func:`harness.analysis.breakdown.by_category`."""
        record = self.record
        return self._in_order(breakdown.by_category(record.outcomes, record.samples, self.manifest.benchmarks))

    @cached_property
    def times(self) -> pd.DataFrame:
        """The latency of the selected points at each uplink, by part: :func:`harness.analysis.cells.summarise`."""
        return cells.summarise(self._selected_requests, self.setting, self.deadline_s)

    @cached_property
    def population(self) -> Population:
        """The patches and payloads of all questions, of which the timed ones are a few.

        Of several benchmarks each counts alike, whatever its size.
        """
        samples = self.record.samples.select(["sample", "benchmark", "patches"]).to_pandas().set_index("sample")
        asked = samples.loc[sorted(set(pc.unique(self.record.outcomes["sample"]).to_pylist()) & set(samples.index))]
        sizes = asked.groupby("benchmark").size()
        weight = 1 / (len(sizes) * asked["benchmark"].map(sizes).to_numpy(float))
        payloads = {
            (str(pipeline), str(point)): rows.set_index("sample")["payload_bytes"].reindex(asked.index, fill_value=0)
            for (pipeline, point), rows in self.record.outcomes.select(["pipeline", "point", "sample", "payload_bytes"])
            .to_pandas()
            .groupby(["pipeline", "point"], sort=False)
        }
        strata = [
            np.sort(of_one.to_numpy(float))[np.arange(sizes.max()) * len(of_one) // sizes.max()]
            for _, of_one in asked.groupby("benchmark", sort=False)["patches"]
        ]
        return Population(
            stratum_of={str(name): float(n) for name, n in samples["patches"].items()},
            stratum_N=np.concatenate(strata),
            payload_bytes={
                key: sent_bytes(asked.index, n_bytes.to_numpy(np.int64), self._texts)
                for key, n_bytes in payloads.items()
            },
            weight_N=weight if len(sizes) > 1 else None,
        )

    @cached_property
    def setting(self) -> Setting:
        """What the latencies rest on besides the request rows: :class:`harness.analysis.cells.Setting`."""
        return Setting(
            system=cells.system_of(self.manifest.scenario_value("replay")),
            population=self.population,
            profiles={key: self.profile(*key) for key in self.timed_points},
            sources=latency.sources(self.record.stages),
            confidence=self.latency_confidence,
        )

    def spent(self) -> Iterator[tuple[dict[str, object], latency.Floats]]:
        """Each cell of the selected points' replay with the T of its requests, in seconds; infinite where unanswered.

        A cell has the keys of :data:`harness.analysis.latency.CELL`; cells come by uplink, rates upwards.
        """
        for cell, rows in latency.cells(self._selected_requests):
            yield cell, latency.total_s(rows)

    def link_and_wait(self, pipeline: str, point: str, channel: str, sample: str) -> dict[str, float]:
        """The mean ``link`` and ``wait`` time of a point's requests of one sample at an uplink with the fewest users.

        In seconds; 0 where it has no such request that was answered.
        """
        rows = self._selected_requests
        wanted = {"pipeline": pipeline, "point": point, "channel": channel, "sample": sample}
        for name, value in wanted.items():
            rows = rows.filter(pc.equal(rows[name], value))
        if rows.num_rows:
            rows = rows.filter(pc.equal(rows["users"], pc.min(rows["users"])))
        seconds = {part: latency.part_s(rows, part) for part in ("link", "wait")}
        finite = {part: of_part[np.isfinite(of_part)] for part, of_part in seconds.items()}
        return {part: float(of_part.mean()) if of_part.size else 0.0 for part, of_part in finite.items()}

    @cached_property
    def levels(self) -> pd.DataFrame:
        """The level of every selected point in each round: its mean time there, over that of all rounds.

        Columns ``pipeline``, ``point``, ``round`` (from 0), ``start`` and ``level``.
        """
        tables = []
        for pipeline, point in self._selected_keys:
            timed = self.setting.timed((pipeline, point))
            level_R = cells.levels(timed)
            columns = {"round": np.arange(level_R.size), "start": timed.start_R, "level": level_R}
            tables.append(pd.DataFrame({"pipeline": pipeline, "point": point, **columns}))
        empty = pd.DataFrame(columns=["pipeline", "point", "round", "start", "level"])
        return pd.concat(tables, ignore_index=True) if tables else empty

    def timed_mean(self, pipeline: str, point: str) -> means.Estimate:
        """The mean of a point's device and server times over the whole benchmark, in seconds, without the link."""
        timed = self.setting.timed((pipeline, point))
        stratum_S, stratum_N = cells.strata(self.profile(pipeline, point), self.population)
        return means.mean_latency(
            timed.total_SR, stratum_S, stratum_N, start_R=timed.start_R, confidence=self.latency_confidence
        )

    @cached_property
    def loads(self) -> pd.DataFrame:
        """The utilisation of servers and uplink in each cell: :func:`harness.analysis.cells.utilisations`.

        Columns of :data:`harness.analysis.latency.CELL`, ``p99_s``, that of all its requests whether the pictures
        certify it or not, and ``servers`` and ``uplink``, null where they are not known.
        """
        found = []
        for cell, seconds_R in self.spent():
            uplink = self.setting.uplink(str(cell["channel"]))
            rho: dict[str, float] = {}
            if uplink is not None:
                judged = Cell(spec=self.setting.system, uplink=uplink, users=int(str(cell["users"])), seed=0)
                rho = cells.utilisations(self.setting.profiles[str(cell["pipeline"]), str(cell["point"])], judged)
            p99_s = latency.percentile(seconds_R, 0.99)
            found.append({**cell, "p99_s": p99_s if np.isfinite(p99_s) else np.nan, **rho})
        return pd.DataFrame(found).reindex(columns=[*latency.CELL, "p99_s", "servers", "uplink"])

    @cached_property
    def crossovers(self) -> pd.DataFrame:
        """Every rate at which two schemes change places: :func:`harness.analysis.whatif.crossover`.

        Between the slowest and the fastest constant uplink, for one user at each scheme's selected point. A row each
        with ``below`` and ``above``, the schemes that answer first on either side, ``rate_bps`` with ``rate_low_bps``
        and ``rate_high_bps`` (0 and infinite beyond the rates looked at, null where none is promised) and ``mean_s``,
        the latency there. Empty where fewer than two such uplinks were replayed.
        """
        from harness.analysis import whatif

        uplinks = sorted(
            (u for u in self.setting.system.uplinks if isinstance(u, ConstantUplink)), key=lambda u: u.rate_bps
        )
        columns = ["below", "above", "rate_bps", "rate_low_bps", "rate_high_bps", "mean_s", "reason"]
        rows = []
        keys = self._selected_keys if len(uplinks) > 1 else ()
        ends_s = {
            key: [cells.mean_at(self.profile(*key), self.setting, uplinks[end]) for end in (0, -1)] for key in keys
        }
        for place, key in enumerate(keys):
            for other in keys[place + 1 :]:
                one, two = self.profile(*key), self.profile(*other)
                # Who is ahead at both ends is ahead throughout: T is a + b / rate.
                slow_s, fast_s = (ends_s[key][end] - ends_s[other][end] for end in (0, 1))
                if one.samples != two.samples or slow_s * fast_s >= 0:
                    continue
                found = whatif.crossover(
                    one,
                    two,
                    self.setting.system,
                    low_bps=uplinks[0].rate_bps,
                    high_bps=uplinks[-1].rate_bps,
                    confidence=self.latency_confidence,
                    wire=uplinks[0].wire,
                    population=self.population,
                )
                if (rate := found.rate_bps) is None:
                    continue
                names = (one.pipeline, two.pipeline)
                below = str(found.faster_below)
                at = ConstantUplink.model_construct(kind="constant", rate_bps=rate.value, name="", wire=uplinks[0].wire)
                mean_s = cells.mean_at(one, self.setting, at)
                above = names[1] if below == names[0] else names[0]
                ends = (rate.value, rate.low, rate.high)
                rows.append(dict(zip(columns, (below, above, *ends, mean_s, rate.reason), strict=True)))
        return pd.DataFrame(rows, columns=columns)

    @cached_property
    def first(self) -> pd.DataFrame:
        """Who answers first at each uplink, by how much: :func:`harness.analysis.comparison.first_answers`."""
        return comparison.first_answers(self.numbers, self.setting)

    @cached_property
    def session(self) -> str:
        """What absolute means are of: :func:`harness.analysis.means.session_label` of the rounds and starts."""
        rounds = {(row["start"], row["round"]) for row in self._rounds}
        return means.session_label(len({round_ for _, round_ in rounds}), len({start for start, _ in rounds}))

    @cached_property
    def timing_warnings(self) -> tuple[str, ...]:
        """What makes the selected points' times doubtful: pictures too few or too alike, drift between rounds, skew."""
        of_sentence: dict[str, list[str]] = {}
        few = reach = ""
        for pipeline, point in self._selected_keys:
            timed, profile = self.setting.timed((pipeline, point)), self.profile(pipeline, point)
            strata = cells.strata(profile, self.population)
            drift = means.drift_between_rounds(timed.total_SR, *strata)
            skew = means.skew_warning(timed.total_SR, strata[0])
            few = few or means.too_few(len(timed.samples))
            for sentence in filter(None, (drift.sentence, skew)):
                of_sentence.setdefault(sentence, []).append(pipeline)
            reach = reach or means.reach_warning(*strata)
        told = (f"{', '.join(pipelines)}: {sentence}" for sentence, pipelines in of_sentence.items())
        return tuple(filter(None, (few, reach, *self._timed_apart(), *told)))

    def _timed_apart(self) -> Iterator[str]:
        """Which selected points were timed in other starts of the process than the first: a run that was edited."""
        timed = {key: self.setting.timed(key) for key in self._selected_keys}
        if not timed:
            return
        first, *_ = timed
        if others := [key for key, one in timed.items() if cells.timed_apart(timed[first], one)]:
            refused = any(means.apart(timed[first].start_R, timed[key].start_R) for key in others)
            yield (
                f"{', '.join(key[0] for key in others)}: timed in another start of the process than {first[0]}; "
                + ("ratios of the two have no interval" if refused else "ratios of the two hold what starts scatter")
            )

    @cached_property
    def stage_times(self) -> pd.DataFrame:
        """How long each stage of each point takes: :func:`harness.analysis.latency.stage_times`."""
        return latency.stage_times(self.record.stages, confidence=self.latency_confidence)

    @cached_property
    def side_times(self) -> pd.DataFrame:
        """T_device and T_server of each timed request: :func:`harness.analysis.latency.side_times`."""
        return latency.side_times(self.record.stages)

    @cached_property
    def deadline_s(self) -> float | None:
        """When an answer is wanted, as the scenario's replay declares it; null where it does not."""
        found = self.manifest.scenario_value("replay", "deadline_s")
        if found is None:
            return None
        if type(found) not in (int, float) or not found > 0:
            where = f"run {self.manifest.name}: scenario.replay.deadline_s"
            raise ResultsError(f"{where} is {found!r}; it must be a number of seconds above 0, or null")
        return float(found)

    @cached_property
    def numbers(self) -> pd.DataFrame:
        """The closing table's numbers, a row for each pipeline's selected point and uplink, in SI units.

        The columns of :attr:`points`, then those of :attr:`times` with the part before them (``link_mean_s``), then
        ``in_time``, the share of requests answered within the scenario's deadline (null where it has none). A pipeline
        that does not reach the target has one row, of its best point, ``reaches`` false and without times; one whose
        selected point was not replayed has one row without times too. Where no score is claimed ``reaches`` is false
        throughout and the times are of each pipeline's first point; ``shown`` says whether a row may have times.
        """
        return at_uplinks(self.points, self.times, reaching=self.scored)

    @cached_property
    def parts(self) -> tuple[str, ...]:
        """The parts of the latency that are shown: all, but waiting only where something waited."""
        waited = bool((self.numbers["wait_mean_s"] > 0).any())
        return tuple(part for part in latency.PARTS if part != "wait" or waited)

    @cached_property
    def ladders(self) -> Mapping[Key, Ladder]:
        """The curves of score over bytes: :func:`harness.analysis.comparison.ladders`; none where none is claimed."""
        return comparison.ladders(self.points, self.answers) if self.scored else {}

    def ladders_in(self, benchmark: str) -> Mapping[Key, Ladder]:
        """:attr:`ladders` in one benchmark by itself; none where the reference scores 0 there."""
        if self.manifest.benchmarks == (benchmark,):
            return self.ladders
        if benchmark in self._ladders_in:
            return self._ladders_in[benchmark]
        answers = breakdown.answers_in(self.record.outcomes, self.record.samples, self.equality, benchmark)
        points = self.benchmarks[self.benchmarks["benchmark"] == benchmark]
        self._ladders_in[benchmark] = comparison.ladders(points, answers) if answers.scored else {}
        return self._ladders_in[benchmark]

    @cached_property
    def equal_scores(self) -> pd.DataFrame:
        """Bytes at equal score and BD values: :func:`harness.analysis.comparison.equal_scores`."""
        return comparison.equal_scores(self.ladders, *self._target, self.equality.confidence)

    @cached_property
    def latencies_at_equal_score(self) -> pd.DataFrame:
        """:func:`harness.analysis.comparison.latencies_at_equal_score`."""
        return comparison.latencies_at_equal_score(self.ladders, self.points, self.setting, *self._target)

    @cached_property
    def _target(self) -> tuple[float, "np.ndarray[Any, np.dtype[np.float64]]"]:
        """The target score, on all questions and in every resample."""
        key = self.answers.reference
        return self.equality.target * self.answers.score(key), self.equality.target * self.answers.resampled(key)

    @cached_property
    def scores_at_tokens(self) -> pd.DataFrame:
        """Scores at as many visual tokens: :func:`harness.analysis.comparison.scores_at_tokens`."""
        return comparison.scores_at_tokens(self.points)

    @property
    def timed_pictures(self) -> int:
        """S, the number of pictures that were timed."""
        return len(pc.unique(self.record.stages["sample"]))

    @property
    def rounds(self) -> int:
        """R, the number of rounds that they were timed in."""
        return len(pc.unique(self.record.stages["repeat"]))

    def plan(self, *, latency: float, payload: float, score: float) -> pd.DataFrame:
        """How many pictures and rounds resolve a mean latency, and how many pictures bytes and a score.

        ``latency`` and ``payload`` are relative (0.05: 5 %), ``score`` in the metric's unit. A row for each selected
        point that was timed: ``pipeline``, ``point``; ``pictures`` and ``rounds`` of the device and server times, and
        over how many ``starts`` of the process (:func:`harness.analysis.precision.plan_latency`; 0 where none do, with
        ``latency_reason``);
        ``bytes_pictures``, for the ratio of bytes at equal score over the next scheme with a curve, and
        ``score_pictures``, for the difference from the reference's score; null where nothing can be said.
        """
        found = []
        for pipeline, point in self._selected_keys:
            timed = self.setting.timed((pipeline, point))
            strata = cells.strata(self.profile(pipeline, point), self.population)
            if few := means.too_few(len(timed.samples)):
                planned = precision.LatencyPlan(pictures=0, rounds=0, half_width=np.nan, reason=few)
            else:
                planned = precision.plan_latency(
                    means.components(timed.total_SR, *strata, start_R=timed.start_R),
                    latency,
                    at_least_rounds=means.MIN_ROUNDS,
                    confidence=self.equality.confidence,
                )
            bytes_pictures, bytes_reason = self._for_bytes(pipeline, payload)
            score_pictures = np.nan
            enough = self.answers.n_clusters >= means.MIN_PICTURES
            if self.scored and enough and (pipeline, point) != self.answers.reference:
                own_C, reference_C = (
                    self.answers.contributions(key) for key in ((pipeline, point), self.answers.reference)
                )
                score_pictures = precision.questions_for_score(
                    own_C, reference_C, score, confidence=self.equality.confidence
                )
            found.append(
                {
                    "pipeline": pipeline,
                    "point": point,
                    "pictures": planned.pictures,
                    "rounds": planned.rounds,
                    "starts": planned.starts,
                    "latency_reason": planned.reason,
                    "bytes_pictures": bytes_pictures,
                    "bytes_reason": bytes_reason,
                    "score_pictures": score_pictures,
                }
            )
        columns = ["pipeline", "point", "pictures", "rounds", "starts", "latency_reason"]
        return pd.DataFrame(found, columns=[*columns, "bytes_pictures", "bytes_reason", "score_pictures"])

    def _for_bytes(self, pipeline: str, wanted: float) -> tuple[float, str]:
        """The pictures that resolve a pipeline's bytes at equal score, over another's; why nothing can be said."""
        pairs = self.equal_scores
        mine = pairs[(pairs["test_pipeline"] == pipeline) | (pairs["anchor_pipeline"] == pipeline)]
        if mine.empty:
            return np.nan, ""
        said = mine[mine["reason"] == ""]
        if said.empty:
            return np.nan, str(mine["reason"].iloc[0])
        pair = said.iloc[0]
        ends = [pair["ratio_high"] / pair["ratio"], pair["ratio"] / pair["ratio_low"] if pair["ratio_low"] else np.inf]
        half, clusters = float(np.log(max(ends))), int(self.points["clusters"].iloc[0])
        return precision.questions_needed(half, clusters, float(np.log1p(wanted))), ""

    @cached_property
    def illustrations(self) -> Illustrations | None:
        """What was computed of the run besides its rows: :mod:`harness.runs.illustrations`; None where nothing was."""
        return illustrations.read(self.record.folder, self.manifest)

    @cached_property
    def resources(self) -> pd.DataFrame:
        """What each half of each point needs besides time, a row a point: columns ``side/quantity``, NaN where unknown.

        ``operations`` are those of all stages of the side together.
        """
        rows = self.record.resources.to_pandas()
        rows["column"] = rows["side"] + "/" + rows["quantity"]
        wide = rows.pivot_table(index=["pipeline", "point"], columns="column", values="value", aggfunc="sum")
        columns = [f"{side}/{quantity}" for side in get_args(Side) for quantity in get_args(Quantity)]
        return self._in_order(wide.reindex(columns=columns).rename_axis(columns=None).reset_index())

    @cached_property
    def pacing(self) -> pd.DataFrame:
        """What idling between requests changes, where both ways were timed: :func:`harness.analysis.pacing.compare`."""
        record = self.record
        found = pacing.compare(record.stages, record.paced, self.population, confidence=self.latency_confidence)
        return self._in_order(found)

    @cached_property
    def elsewhere(self) -> tuple[str, ...]:
        """Which stages of a run that measured others were not measured in it, a phrase for each source and machine."""
        stages = self.record.stages
        rows = stages.group_by(["source", "machine", "side", "pipeline"], use_threads=False).aggregate([]).to_pylist()
        if all(row["source"] != "measured" for row in rows):
            return ()
        found: dict[tuple[str, str, str], list[str]] = {}
        for row in rows:
            if row["source"] != "measured":
                found.setdefault((row["source"], row["side"], row["machine"]), []).append(row["pipeline"])
        return tuple(
            f"{source}: the {side} stages of {', '.join(pipelines)}, on {machine}"
            for (source, side, machine), pipelines in found.items()
        )

    @cached_property
    def energy(self) -> pd.DataFrame:
        """The joules of an answer on each side, a row a rail: :func:`harness.analysis.energy.per_answer`."""
        calibration = (self.manifest.scenario_value("measure").get("energy") or {}).get("calibration")
        found = energy.per_answer(self.record.energy, calibration=calibration, confidence=self.equality.confidence)
        return self._in_order(found)

    @cached_property
    def energy_absent(self) -> str:
        """Why there is no energy of a side that was to be measured, in one sentence; else empty."""
        if self.manifest.scenario_value("measure").get("energy") is None:
            return ""
        told = [text for session in self.manifest.sessions for text in session.energy.items()]
        absent = {side: what.removeprefix(UNAVAILABLE) for side, what in told if what.startswith(UNAVAILABLE)}
        missing = [side for side in absent if side not in set(self.energy["side"])]
        return "; ".join(f"no energy of the {side} could be read: {absent[side]}" for side in missing)

    @property
    def bytes_source(self) -> str:
        """Where payload bytes come from: of a run of estimates they are reported or derived, of any other measured."""
        return "reported or derived" if self.is_estimated else "measured"

    @property
    def is_estimated(self) -> bool:
        """Whether the run's stages are estimated for machines that are not here, and nothing of it was measured."""
        return self.manifest.scenario.get("estimate") is not None

    @cached_property
    def machines(self) -> tuple[str, ...]:
        """The machines that stages were timed on, by name, in the order of the rows."""
        return tuple(pc.unique(self.record.stages["machine"]).to_pylist())

    @cached_property
    def timed_points(self) -> tuple[tuple[str, str], ...]:
        """(pipeline, point) of every point that has stage rows, in the order of the rows."""
        rows = self.record.stages.group_by(["pipeline", "point"], use_threads=False).aggregate([]).to_pylist()
        return tuple((row["pipeline"], row["point"]) for row in rows)

    def profile(self, pipeline: str, point: str) -> Profile:
        """The timed requests of one point; raises what :meth:`harness.replay.profile.Profile.from_tables` raises."""
        key = pipeline, point
        if key not in self._profiles:
            self._profiles[key] = Profile.from_tables(
                self.record.stages, self.record.outcomes, pipeline, point, samples=self._texts
            )
        return self._profiles[key]

    def profiles(self, pipelines: Sequence[str] | None = None) -> list[Profile]:
        """The profile of every timed point, or of those of the pipelines named; ResultsError for an unknown one."""
        self._refuse_unknown(pipelines or ())
        return [self.profile(*key) for key in self.timed_points if not pipelines or key[0] in pipelines]

    def selected_profile(self, pipeline: str) -> Profile:
        """The profile of a pipeline at its selected point; raises ResultsError where it has none."""
        self._refuse_unknown([pipeline])
        mine = self.points[(self.points["pipeline"] == pipeline) & self.points["selected"]]
        if mine.empty:
            raise ResultsError(f"{self.record.folder}: {pipeline} has no operating point that reaches the target score")
        return self.profile(pipeline, mine["point"].iloc[0])

    def confidence_of_times(self, confidence: float) -> float:
        """At which confidence intervals of times are made that are said to have ``confidence``.

        Higher where timing stopped when it was precise: :func:`harness.analysis.precision.when_stopped`.
        """
        stopped = self.manifest.scenario_value("measure").get("precision") is not None
        return precision.when_stopped(confidence) if stopped else confidence

    @property
    def latency_confidence(self) -> float:
        """At which confidence intervals of times are made: the scenario's, higher where timing stops when precise."""
        return self.confidence_of_times(self.equality.confidence)

    @property
    def _texts(self) -> pa.Table | None:
        """The samples where the scenario counts the questions' text as sent; else nothing."""
        return self.record.samples if self.manifest.scenario_value("replay").get("question_text") else None

    def _refuse_unknown(self, pipelines: Sequence[str]) -> None:
        known = list(dict.fromkeys(pipeline for pipeline, _ in self.timed_points))
        if unknown := [name for name in pipelines if name not in known]:
            raise ResultsError(f"{self.record.folder}: {unknown_name('pipeline', unknown[0], known)}")

    def _in_order(self, points: pd.DataFrame) -> pd.DataFrame:
        """Rows of points with the pipelines in the scenario's order."""
        place = {pipeline: index for index, pipeline in enumerate(self.manifest.points)}
        if strange := sorted(set(points["pipeline"]) - set(place)):
            raise ResultsError(
                f"{self.record.folder}: {strange[0]} has outcomes, and the manifest's points are of: {', '.join(place)}"
            )
        return points.sort_values("pipeline", key=lambda column: column.map(place), kind="stable", ignore_index=True)

    @cached_property
    def _selected_requests(self) -> pa.Table:
        """The request rows of the selected points."""
        requests = self.record.requests
        chosen = self.points.loc[self.points["selected"], ["pipeline", "point"]]
        keys = pa.array([f"{pipeline}\n{point}" for pipeline, point in chosen.to_numpy()], pa.string())
        of_row = pc.binary_join_element_wise(requests["pipeline"], requests["point"], "\n")
        return requests.filter(pc.is_in(of_row, keys))

    @cached_property
    def _selected_keys(self) -> tuple[Key, ...]:
        """The selected points that were timed."""
        chosen = self.points.loc[self.points["selected"], ["pipeline", "point"]].to_numpy().tolist()
        return tuple((p, q) for p, q in chosen if (p, q) in self.timed_points)

    @cached_property
    def _rounds(self) -> list[dict[str, int]]:
        rows: list[dict[str, int]] = self.record.stages.group_by(["round", "start"]).aggregate([]).to_pylist()
        return rows


def at_uplinks(points: pd.DataFrame, times: pd.DataFrame, *, reaching: bool = True) -> pd.DataFrame:
    """:attr:`Analysis.numbers` of points and latencies; ``reaching`` is false where no score is claimed."""
    statistics = [name for name in times.columns if name.endswith("_s")]
    of_part = [*statistics, "done", "source", "reason"]
    index = [*_UPLINK, "pipeline", "point", "requests", "timed"]
    wide = times.pivot(index=index, columns="part", values=of_part)
    wide.columns = pd.Index([f"{column[1]}_{column[0]}" for column in wide.columns.to_list()])
    # No request at all has no part; its columns are there all the same.
    wide = wide.reindex(columns=[f"{part}_{name}" for name in of_part for part in latency.PARTS])
    wide = times[_UPLINK].drop_duplicates(ignore_index=True).merge(wide.infer_objects().reset_index(), on=_UPLINK)
    shares = times.loc[times["part"] == "total", [*latency.CELL, "share", "share_low", "share_high"]]
    shares = shares.rename(columns=lambda name: name.replace("share", "in_time"))
    wide = wide.merge(shares, on=list(latency.CELL), how="left")
    rows = []
    for pipeline, of_pipeline in points.groupby("pipeline", sort=False):
        selected = of_pipeline[of_pipeline["selected"]]
        shown = len(selected) == 1
        point = selected if shown else of_pipeline.nlargest(1, "score")
        point = point.drop(columns=["selected", "admissible"]).assign(reaches=shown and reaching, shown=shown)
        timed = wide[wide["pipeline"] == pipeline] if shown else wide.iloc[:0]
        rows.append(point.merge(timed, on=["pipeline", "point"], how="left"))
    found = pd.concat(rows, ignore_index=True)
    numeric = [f"{part}_{name}" for name in (*statistics, "done") for part in latency.PARTS]
    numeric += ["in_time", "in_time_low", "in_time_high", "requests", "timed"]
    return found.astype(dict.fromkeys(numeric, float) | {"users": float})
