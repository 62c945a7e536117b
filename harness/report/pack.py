"""An archive that others can rerun without a network, and every number of the table as a LaTeX macro."""

import datetime as dt
import gzip
import io
import math
import re
import tarfile
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

import pandas as pd
import yaml

from harness import catalog, files
from harness.analysis import Analysis, latency
from harness.errors import ResultsError, ScenarioError
from harness.report.figures.gallery import draw_all
from harness.report.figures.table_one import escaped
from harness.runs import digests, disk
from harness.runs.own_code import of_own_code, own_files
from harness.runs.provenance import MANIFEST
from harness.runs.replayed import REPLAYED, scenario_of
from harness.scenario.load import as_written, scenario_hash
from harness.scenario.model import Scenario

_STATISTICS = ("mean", "p50", "p90", "p99")
_UNSAFE = re.compile(r"[^A-Za-z0-9 ./+_-]")
_MOST_BYTES = 1 << 32
_CODE = "code"


def pack(run: Path, file: Path, scenario: Scenario, overrides: tuple[str, ...], out: Path) -> None:
    """Writes the archive of a complete run, made with the scenario in ``file`` and what ``overrides`` put in its place.

    It holds the rows and the manifest, the scenario, the recorded links and stage times and the user's own code that it
    names, figures with their data, the versions of packages, the numbers as LaTeX macros, and a README with the
    commands and what is needed besides. Of a replayed run ``scenario`` is what it was replayed with; of this, and where
    values were replaced, the archive has the whole scenario as the manifest holds it. Raises ResultsError for another
    scenario than the run's, or another file or code than the run's, ScenarioError for a file outside of the scenario's
    folder, which would not be found again.
    """
    disk.check_writable(out)
    found = Analysis.read(run)
    of_run = scenario_of(found.manifest, found.record.stages, scenario)
    if of_run is None:
        raise ResultsError(
            f"{run}: was made with a scenario of hash {found.manifest.scenario_hash}, and {file} has "
            f"{scenario_hash(scenario)}; give the scenario of the run, and the values that replaced its own; of a "
            "replayed run the one that it was replayed with"
        )
    name = found.manifest.name
    content = {f"run/{path.name}": _read(path) for path in sorted(run.glob("*.parquet"))}
    content[f"run/{MANIFEST}"] = _read(run / MANIFEST)
    content[f"scenarios/{file.name}"] = _read(file) if of_run is scenario and not overrides else _written(found)
    own = _own_modules(of_run)
    code = own_files(own)
    content |= {f"{_CODE}/{name}": _read(path) for name, path in code.items()}
    for link in of_run.replay.files:
        relative = _relative(link, file)
        content[f"scenarios/{relative}"] = _read(link)
        if REPLAYED in found.manifest.tables:
            # A reference run is read with the links beside it.
            content[f"run/{relative}"] = _read(run / relative)
    for label, digest in {**digests.of_links(of_run.replay.files), **of_own_code(own)}.items():
        if (known := found.manifest.digests.get(label, digest)) != digest:
            raise ResultsError(f"{run}: {label} is not the one that the run was made with ({known}): it has {digest}")
    for recording in of_run.profile:
        whole = recording.file.is_dir()
        parts = [*recording.file.glob("*.parquet"), recording.file / MANIFEST] if whole else [recording.file]
        content |= {f"scenarios/{_relative(part, file)}": _read(part) for part in sorted(parts)}
    with tempfile.TemporaryDirectory() as folder:
        for drawn in draw_all(run, Path(folder)):
            content[f"figures/{drawn.name}"] = _read(drawn)
    content["numbers.tex"] = numbers_tex(found).encode()
    content["requirements.txt"] = _requirements(found).encode()
    lacking = [*_absent_benchmarks(of_run), *_absent_files(found), *_absent_packages(found, code)]
    content["README.md"] = _readme(found, file.name, bool(code), lacking).encode()
    disk.write_bytes(out, _archive(name, content, dt.datetime.fromisoformat(str(found.manifest.finished_utc))))


def _written(run: Analysis) -> bytes:
    """The scenario that a run's manifest holds, as a file."""
    written = as_written(run.manifest.scenario)
    return yaml.safe_dump(written, sort_keys=False, allow_unicode=True, width=100).encode()


def _relative(path: Path, file: Path) -> str:
    """Where a file that a scenario's file names is in the scenario's folder."""
    if not path.resolve().is_relative_to(file.parent.resolve()):
        raise ScenarioError(f"{file}: {path} is outside of the scenario's folder; an archive has only what is in it")
    return path.resolve().relative_to(file.parent.resolve()).as_posix()


def numbers_tex(run: Analysis) -> str:
    r"""Every number of the table as a LaTeX macro, with its interval and its source.

    ``\harness{tofc/25 KB/s/total_mean_s}`` is the number, with ``/low`` and ``/high`` behind it the ends of its
    interval. A name that is not defined stops LaTeX with an error.
    """
    manifest = run.manifest
    labels = ". ".join(filter(None, (manifest.label or "no stand-ins", manifest.untuned)))
    lines = [
        f"% {manifest.name}: {run.validity}. {labels}. {manifest.commits}.",
        *(f"% {phrase}." for phrase in run.elsewhere),
        f"% Intervals at {100 * run.equality.confidence:g} %. Times in seconds, payloads in bytes.",
        r"\providecommand{\harness}[1]{\ifcsname harness:#1\endcsname\csname harness:#1\endcsname\else",
        r"  \errmessage{no number of the run is called #1}\fi}",
    ]
    for key, value, source in _numbers(run):
        lines.append(rf"\expandafter\def\csname harness:{key}\endcsname{{{value}}}  % {source}")
    return "\n".join(lines) + "\n"


def _numbers(run: Analysis) -> Iterator[tuple[str, str, str]]:
    """The key, the value and the source of each number, those of a scheme once and those of its uplinks each."""
    numbers, several_users = run.numbers, run.numbers["users"].nunique() > 1
    names: dict[str, str] = {}
    for channel in numbers["channel"].dropna().unique():
        name = _safe(str(channel))
        while name in names.values():
            # Uplinks that differ in a character that LaTeX acts on.
            name += "-"
        names[str(channel)] = name
    for pipeline, rows in numbers.groupby("pipeline", sort=False):
        first = rows.iloc[0]
        yield f"{pipeline}/point", escaped(str(first["point"])), "the operating point"
        known = ["payload_bytes"]
        known += ["visual_tokens"] if not run.is_estimated else []
        known += ["score", "relative_score"] if run.scored else []
        for quantity in known:
            yield from _with_interval(f"{pipeline}/{quantity}", quantity, first, run.bytes_source)
        for _, row in rows[rows["shown"] & rows["channel"].notna()].iterrows():
            users = f"/{row['users']:.0f} users" if several_users else ""
            place = f"{pipeline}/{names[str(row['channel'])]}{users}"
            for part in latency.PARTS:
                source = row[f"{part}_source"]
                told = source if isinstance(source, str) else "replayed"
                for statistic in _STATISTICS:
                    yield from _with_interval(f"{place}/{part}_{statistic}_s", f"{part}_{statistic}_s", row, told)
            yield from _with_interval(f"{place}/in_time", "in_time", row, "replayed")


def _with_interval(key: str, column: str, row: "pd.Series[float]", source: str) -> Iterator[tuple[str, str, str]]:
    value = row.get(column)
    if not isinstance(value, float) or not math.isfinite(value):
        return
    stem, _, unit = column.rpartition("_") if column.endswith("_s") else (column, "", "")
    low, high = (row.get(f"{stem}_{end}{'_' + unit if unit else ''}", math.nan) for end in ("low", "high"))
    has_interval = math.isfinite(low) and math.isfinite(high)
    yield key, f"{value:.6g}", source + (f", {low:.6g} to {high:.6g}" if has_interval else ", no interval")
    if has_interval:
        yield f"{key}/low", f"{low:.6g}", source
        yield f"{key}/high", f"{high:.6g}", source


def _safe(text: str) -> str:
    """A text as a part of a macro's name: without the characters that LaTeX acts on there."""
    return _UNSAFE.sub("-", text)


def _own_modules(scenario: Scenario) -> list[str]:
    """The modules of the user's own schemes and models that a scenario names."""
    named = [("scheme", spec.scheme, catalog.SCHEMES) for spec in scenario.pipelines]
    models = [scenario.backbone, scenario.stand_in.backbone or scenario.backbone]
    named += [("backbone", name, catalog.BACKBONES) for name in models]
    return list(dict.fromkeys(filter(None, (catalog.module_of(*one) for one in named))))


def _absent_benchmarks(scenario: Scenario) -> Iterator[str]:
    """The user's own benchmarks, whose pictures may not be ours to pass on."""
    for wanted in scenario.wanted:
        if wanted.name not in catalog.BENCHMARKS:
            yield f"the benchmark `{wanted.name}`, in the folder `scenarios`"


def _absent_files(run: Analysis) -> Iterator[str]:
    """The trainings and weights whose paths points name; those that have a name come with the harness."""
    digested = [name for name in run.manifest.digests if not name.startswith("parameters of ")]
    points = [point for of_pipeline in run.manifest.points.values() for point in of_pipeline.values()]
    texts = {value: None for point in points for value in point.values() if isinstance(value, str)}
    for text in texts:
        if any(text in name for name in digested) and Path(text).exists():
            yield f"`{text}`" + ("" if Path(text).is_absolute() else ", in this folder")


def _absent_packages(run: Analysis, code: Collection[str]) -> Iterator[str]:
    """The installed packages that the user's own code is in, or that it imports."""
    there = {name.partition("/")[0].partition(".")[0] for name in code}
    for name, digest in run.manifest.digests.items():
        if name.startswith("package "):
            yield f"the {name} {digest}"
        elif name.startswith("code of ") and name.removeprefix("code of ") not in there:
            yield f"the package {name.removeprefix('code of ')}"


def _requirements(run: Analysis) -> str:
    """The versions of the last session's packages, as pip takes them; not the build, which an index may not have."""
    packages = dict(run.manifest.sessions[-1].packages)
    python = f"# Python {packages.pop('python')}\n" if "python" in packages else ""
    lines = []
    for name, version in sorted(packages.items()):
        public, _, build = version.partition("+")
        lines.append(f"{name}=={public}" + (f"  # the build was {version}" if build else "") + "\n")
    return python + "".join(lines)


def _readme(run: Analysis, file: str, has_code: bool, lacking: Sequence[str]) -> str:
    manifest, last = run.manifest, run.manifest.sessions[-1]
    labels = "\n".join(filter(None, (manifest.label or "No stand-ins.", manifest.untuned)))
    verdict = f"{run.validity}" + "".join(f"\n- {reason}" for reason in run.reasons)
    own = f" `{_CODE}/`: the code of its own schemes or model." if has_code else ""
    python = f"PYTHONPATH={_CODE} " if has_code else ""
    needed = f"\nNot in the archive, and needed to measure again: {'; '.join(lacking)}.\n" if lacking else ""
    return f"""# {manifest.scenario_value("title")}

The run `{manifest.name}` of tofc-harness {last.harness_version}, {manifest.commits}.
{labels}
Machines: {", ".join(manifest.machines)}. Verdict: {verdict}

- `run/`: the rows, and `manifest.json` with where they come from. `figures/`: the figures, their data, the table.
- `numbers.tex`: every number of the table as a LaTeX macro.
- `scenarios/`: what was run. `requirements.txt`: the packages and their versions.{own}

To read it again, to replay its rows, and to measure again (in this folder, with the same version of the harness
installed):

    harness show run
    harness plot run
    {python}harness replay run scenarios/{file} --name replayed
    {python}harness check scenarios/{file}        # what is not installed here: weights, codecs, adapters, benchmarks
    {python}harness run scenarios/{file}
{needed}"""


def _archive(name: str, content: Mapping[str, bytes], time: dt.datetime) -> bytes:
    """A gzipped tar, whose bytes depend on nothing but its content and the time."""
    raw = io.BytesIO()
    seconds = int(time.timestamp())
    with gzip.GzipFile(fileobj=raw, mode="wb", mtime=seconds) as zipped, tarfile.open(fileobj=zipped, mode="w") as tar:
        for path, data in sorted(content.items()):
            facts = tarfile.TarInfo(f"{name}/{path}")
            facts.size, facts.mtime, facts.mode = len(data), seconds, 0o644
            tar.addfile(facts, io.BytesIO(data))
    return raw.getvalue()


def _read(path: Path) -> bytes:
    try:
        return files.read(path, _MOST_BYTES)
    except OSError as error:
        raise ResultsError(f"{path}: cannot be read: {files.why(error)}") from None
