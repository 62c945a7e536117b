"""One run's analysis: each quantity that is computed from its rows, in one place."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self, get_args

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from harness.analysis import breakdown, cells, comparison, doubts, energy, latency, loads, means, pacing, precision
from harness.analysis.curves import Ladder
from harness.analysis.select import Equality, Scores, ladders_of, select
from harness.analysis.setting import Population, Setting, levels, strata, system_of
from harness.errors import ResultsError, unknown_name
from harness.records import PointKey, Quantity, Side
from harness.replay.profile import Profile
from harness.runs import illustrations
from harness.runs.illustrations import Illustrations
from harness.runs.provenance import UNAVAILABLE, Manifest
from harness.runs.store import Record, Run, complete_runs


class Analysis:
    """The quantities of a run's rows; a property is computed on first use, and is then the same object.

    Tables are in the order of the scenario's pipelines. What takes points takes the run's declared
    :class:`harness.analysis.select.Equality`; all times are in seconds. A quantity raises ResultsError where the rows
    that it needs contradict each other.
    """

    def __init__(self, record: Record) -> None:
        self.record = record
        self._profiles: dict[tuple[str, str], Profile] = {}
        self._ladders_in: dict[str, Mapping[PointKey, Ladder]] = {}

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
    def scores(self) -> Scores:
        """The scores of every point: :class:`harness.analysis.select.Scores`."""
        return Scores(self.record.outcomes, self.record.samples, self.equality, self.manifest.benchmarks)

    @cached_property
    def points(self) -> pd.DataFrame:
        """Every operating point with its bytes and score: :func:`harness.analysis.select.select`.

        If no score is claimed (:attr:`scored`), the first declared point of each pipeline is taken as selected.
        """
        found = self._in_order(select(self.scores, ladders_of(self.manifest.points)))
        if not self.scored:
            first = {pipeline: next(iter(labels), "") for pipeline, labels in self.manifest.points.items()}
            found["selected"] = found["point"] == found["pipeline"].map(first)
        return found

    @property
    def scored(self) -> bool:
        """Whether scores are claimed: the reference scores more than 0 in every benchmark."""
        return self.scores.scored

    @cached_property
    def reference(self) -> "pd.Series[float]":
        """The reference's row of :attr:`points`."""
        return self.points[self.points["reference"]].iloc[0]

    @cached_property
    def benchmarks(self) -> pd.DataFrame:
        """:attr:`points` in each benchmark separately: :func:`harness.analysis.breakdown.by_benchmark`."""
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
        """The latency of the selected points at each uplink, by part: :func:`harness.analysis.cells.latencies`."""
        return cells.latencies(self.selected_requests, self.setting, self.deadline_s)

    @cached_property
    def population(self) -> Population:
        """The patches and payloads of all questions: :meth:`harness.analysis.setting.Population.of`."""
        return Population.of(self.record.outcomes, self.record.samples, self._texts)

    @cached_property
    def setting(self) -> Setting:
        """What the latencies rest on besides the request rows: :class:`harness.analysis.setting.Setting`."""
        return Setting(
            system=system_of(self.manifest.scenario_value("replay")),
            population=self.population,
            profiles={key: self.profile(*key) for key in self.timed_points},
            sources=latency.sources(self.record.stages),
            confidence=self.latency_confidence,
        )

    def spent(self) -> Iterator[tuple[dict[str, object], latency.Floats]]:
        """Each cell of the selected points' replay with the T of its requests, in seconds; infinite where unanswered.

        A cell has the keys of :data:`harness.analysis.latency.CELL`; cells come by uplink, rates upwards.
        """
        for cell, rows in latency.cells(self.selected_requests):
            yield cell, latency.total_s(rows)

    @cached_property
    def levels(self) -> pd.DataFrame:
        """The level of every selected point in each round: its mean time there, over that of all rounds.

        Columns ``pipeline``, ``point``, ``round`` (from 0), ``start`` and ``level``.
        """
        tables = []
        for pipeline, point in self.selected_keys:
            timed = self.setting.timed((pipeline, point))
            level_R = levels(timed)
            columns = {"round": np.arange(level_R.size), "start": timed.start_R, "level": level_R}
            tables.append(pd.DataFrame({"pipeline": pipeline, "point": point, **columns}))
        empty = pd.DataFrame(columns=["pipeline", "point", "round", "start", "level"])
        return pd.concat(tables, ignore_index=True) if tables else empty

    def timed_mean(self, pipeline: str, point: str) -> means.Estimate:
        """The mean of a point's device and server times over the whole benchmark, in seconds, without the link."""
        timed = self.setting.timed((pipeline, point))
        stratum_S, stratum_N = strata(self.profile(pipeline, point), self.population)
        return means.mean_latency(
            timed.total_SR, stratum_S, stratum_N, start_R=timed.start_R, confidence=self.latency_confidence
        )

    @cached_property
    def loads(self) -> pd.DataFrame:
        """The utilisation of device, uplink and servers in each cell: :func:`harness.analysis.loads.utilisations`.

        Columns of :data:`harness.analysis.latency.CELL`, ``p99_s``, that of all its requests whether the pictures
        certify it or not, and ``device``, ``uplink`` and ``servers``, null where they are not known.
        """
        found = []
        for cell, seconds_R in self.spent():
            profile = self.setting.profiles[str(cell["pipeline"]), str(cell["point"])]
            rho = loads.utilisations(profile, self.setting.judged(cell))
            p99_s = latency.percentile(seconds_R, 0.99)
            found.append({**cell, "p99_s": p99_s if np.isfinite(p99_s) else np.nan, **rho})
        return pd.DataFrame(found).reindex(columns=[*latency.CELL, "p99_s", "device", "uplink", "servers"])

    @cached_property
    def crossovers(self) -> pd.DataFrame:
        """Every rate at which two schemes change places: :func:`harness.analysis.comparison.crossovers`."""
        return comparison.crossovers([self.profile(*key) for key in self.selected_keys], self.setting)

    @cached_property
    def first(self) -> pd.DataFrame:
        """Who answers first at each uplink, by how much: :func:`harness.analysis.comparison.first_answers`."""
        return comparison.first_answers(self.numbers, self.setting)

    @cached_property
    def session(self) -> str:
        """What absolute means are of: :func:`harness.analysis.doubts.session_label` of the rounds and starts.

        The fewest in which a side of a selected point was timed: a scheme that was added to a run, and the server of
        two machines' run, have rounds and starts of their own. Of all points where none that was timed is selected.
        Empty for estimates, which no session timed.
        """
        if self.is_estimated:
            return ""
        sides = ["pipeline", "point", "side"]
        rows = self.record.stages.group_by([*sides, "round", "start"], use_threads=False).aggregate([]).to_pandas()
        shown = pd.MultiIndex.from_frame(rows[["pipeline", "point"]]).isin(list(self.selected_keys))
        counts = (rows[shown] if shown.any() else rows).groupby(sides)[["round", "start"]].nunique()
        return doubts.session_label(int(counts["round"].min()), int(counts["start"].min())) if len(counts) else ""

    @cached_property
    def timing_warnings(self) -> tuple[str, ...]:
        """What makes the selected points' times doubtful: :func:`harness.analysis.doubts.timing_warnings`.

        The last is what is not judged of the system: :meth:`harness.analysis.setting.Setting.unjudged`. Of estimates it
        is the only one.
        """
        doubtful = () if self.is_estimated else doubts.timing_warnings(self.setting, self.selected_keys)
        unjudged = self.setting.unjudged(pc.unique(self.selected_requests["channel"]).to_pylist())
        return (*doubtful, *filter(None, [unjudged]))

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
        return latency.at_uplinks(self.points, self.times, reaching=self.scored)

    @cached_property
    def met(self) -> Literal["none", "some", "all"]:
        """In which replayed cells of :attr:`numbers` requests may meet, or a link's rate varies.

        There a mean is of the requests that were replayed, and elsewhere of the whole benchmark.
        """
        cells_ = self.numbers.loc[self.numbers["requests"] > 0, ["channel", "users"]].drop_duplicates()
        alone = [self.setting.alone(cell) for cell in cells_.to_dict("records")]  # type: ignore[arg-type]
        return "none" if all(alone) else "some" if any(alone) else "all"

    @cached_property
    def parts(self) -> tuple[str, ...]:
        """The parts of the latency that are shown: all, but waiting only where something waited."""
        waited = bool((self.numbers["wait_mean_s"] > 0).any())
        return tuple(part for part in latency.PARTS if part != "wait" or waited)

    @cached_property
    def ladders(self) -> Mapping[PointKey, Ladder]:
        """The curves of score over bytes: :func:`harness.analysis.comparison.ladders`; none where none is claimed."""
        return comparison.ladders(self.points, self.scores) if self.scored else {}

    def ladders_in(self, benchmark: str) -> Mapping[PointKey, Ladder]:
        """:attr:`ladders` in one benchmark; none where the reference scores 0 there."""
        if self.manifest.benchmarks == (benchmark,):
            return self.ladders
        if benchmark in self._ladders_in:
            return self._ladders_in[benchmark]
        scores = breakdown.scores_in(self.record.outcomes, self.record.samples, self.equality, benchmark)
        points = self.benchmarks[self.benchmarks["benchmark"] == benchmark]
        self._ladders_in[benchmark] = comparison.ladders(points, scores) if scores.scored else {}
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
        key = self.scores.reference
        return self.equality.target * self.scores.score(key), self.equality.target * self.scores.resampled(key)

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
        """Which stages were not measured in the run, a phrase for each source and machine.

        Of a run that measured none, those of a side whose stages are not all of one source and machine.
        """
        stages = self.record.stages
        rows = stages.group_by(["source", "machine", "side", "pipeline"], use_threads=False).aggregate([]).to_pylist()
        origins: dict[str, set[tuple[str, str]]] = {}
        for row in rows:
            origins.setdefault(row["side"], set()).add((row["source"], row["machine"]))
        measured = any(row["source"] == "measured" for row in rows)
        found: dict[tuple[str, str, str], list[str]] = {}
        for row in rows:
            if row["source"] != "measured" and (measured or len(origins[row["side"]]) > 1):
                found.setdefault((row["source"], row["side"], row["machine"]), []).append(row["pipeline"])
        return tuple(
            f"{source}: the {side} stages of {', '.join(pipelines)}, on {machine}"
            for (source, side, machine), pipelines in found.items()
        )

    @property
    def times_source(self) -> str:
        """Where times come from, in a phrase: ``timed on`` the machines by name, or recorded on or estimated for them.

        What is not as the rest is in :attr:`elsewhere`.
        """
        if not self.machines:
            return "not timed"
        measured = "measured" in pc.unique(self.record.stages["source"]).to_pylist()
        how = "estimated for" if self.is_estimated else "timed on" if measured else "recorded on"
        return f"{how} {' and '.join(self.machines)}"

    @cached_property
    def energy(self) -> pd.DataFrame:
        """The joules of an answer on each side, a row a rail: :func:`harness.analysis.energy.per_answer`."""
        calibration = (self.manifest.scenario_value("measure").get("energy") or {}).get("calibration")
        found = energy.per_answer(self.record.energy, calibration=calibration, confidence=self.equality.confidence)
        return self._in_order(found)

    @cached_property
    def energy_absent(self) -> str:
        """Why there is no energy of a side that was to be measured, and what to do, in one sentence; else empty."""
        if self.manifest.scenario_value("measure").get("energy") is None:
            return ""
        sensors = [text for session in self.manifest.sessions for text in session.energy.items()]
        absent = {side: what.removeprefix(UNAVAILABLE) for side, what in sensors if what.startswith(UNAVAILABLE)}
        missing = [side for side in absent if side not in set(self.energy["side"])]
        why = [f"no energy of the {side} could be read: {absent[side]}" for side in missing]
        return "; ".join([*why, energy.REPEAT_WHERE_READABLE] if why else [])

    @property
    def bytes_source(self) -> str:
        """Where bytes come from: of estimates reported or derived, of another run's rows recorded, else measured.

        A run that :func:`harness.derived.replay` made has the rows of another.
        """
        if self.is_estimated:
            return "reported or derived"
        stages, outcomes = self.record.stages, self.record.outcomes
        measured = "measured" in pc.unique(stages["source"]).to_pylist()
        # What is measured answers in one unit and times in another.
        at_once = set(pc.unique(stages["unit"]).to_pylist()) & set(pc.unique(outcomes["unit"]).to_pylist())
        return "recorded" if at_once and not measured else "measured"

    @property
    def resources_source(self) -> str:
        """Where the rows of memory and operations come from: their sources, such as ``measured``."""
        return " and ".join(sorted(pc.unique(self.record.resources["source"]).to_pylist()))

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

    def profiles(self, pipelines: Sequence[str] | None = None, *, question_text: bool | None = None) -> list[Profile]:
        """The profile of every timed point, or of those of the pipelines named; ResultsError for an unknown one.

        ``question_text`` says whether the questions' text is sent too; by default as in the run's scenario.
        """
        self._refuse_unknown(pipelines or ())
        keys = [key for key in self.timed_points if not pipelines or key[0] in pipelines]
        if question_text in (None, self._texts is not None):
            return [self.profile(*key) for key in keys]
        samples = self.record.samples if question_text else None
        rows = self.record.stages, self.record.outcomes
        return [Profile.from_tables(*rows, *key, samples=samples) for key in keys]

    def selected_profile(self, pipeline: str) -> Profile:
        """The profile of a pipeline at its selected point; raises ResultsError where it has none."""
        self._refuse_unknown([pipeline])
        mine = self.points[(self.points["pipeline"] == pipeline) & self.points["selected"]]
        if mine.empty:
            raise ResultsError(f"{self.record.folder}: {pipeline} has no operating point that reaches the target score")
        return self.profile(pipeline, mine["point"].iloc[0])

    def confidence_of_times(self, confidence: float) -> float:
        """The confidence at which intervals of times are computed that are labelled ``confidence``.

        Higher where timing stopped when it was precise: :func:`harness.analysis.precision.when_stopped`.
        """
        stopped = self.manifest.scenario_value("measure").get("precision") is not None
        return precision.when_stopped(confidence) if stopped else confidence

    @property
    def latency_confidence(self) -> float:
        """The confidence of intervals of times: the scenario's, or higher where timing stops when precise."""
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
    def selected_requests(self) -> pa.Table:
        """The request rows of the selected points."""
        requests = self.record.requests
        chosen = self.points.loc[self.points["selected"], ["pipeline", "point"]]
        keys = pa.array([f"{pipeline}\n{point}" for pipeline, point in chosen.to_numpy()], pa.string())
        of_row = pc.binary_join_element_wise(requests["pipeline"], requests["point"], "\n")
        return requests.filter(pc.is_in(of_row, keys))

    @cached_property
    def selected_keys(self) -> tuple[PointKey, ...]:
        """The selected points that were timed."""
        chosen = self.points.loc[self.points["selected"], ["pipeline", "point"]].to_numpy().tolist()
        return tuple((p, q) for p, q in chosen if (p, q) in self.timed_points)
