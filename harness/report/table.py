"""The closing table: which scheme answers first at equal score, by how much, and whether the run is VALID."""

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pandas as pd
from rich.console import Group
from rich.text import Text

from harness.analysis import Analysis, comparison
from harness.errors import ResultsError
from harness.report.fitting import Fitting
from harness.runs import disk
from harness.units import format_bytes, format_seconds

_Form = Callable[[float], str]

_MOST_BESIDE = 6


def table(run: Analysis) -> Group:
    """The closing table of a run for a terminal, with its labels above and its sources below.

    It is a table at 80 columns; where that is too wide, each scheme has a small one of its own.
    """
    numbers, times = _numbers(run), _time_columns(run)
    # With more times than these, 80 columns have no room for a column that is not one number.
    stacked = len(times) > _MOST_BESIDE
    heads = ["scheme, point,\npayload, score"] if stacked else ["scheme, point", "payload, score"]
    drawn = Fitting(leading=1, names=len(heads))
    for column in (*heads, "uplink"):
        drawn.add_column(column, no_wrap=True)
    for column in times:
        drawn.add_column(column.replace(" ", "\n", 1), justify="right", no_wrap=True)
    drawn.columns[0].no_wrap, drawn.columns[0].overflow = False, "fold"
    for _, rows in numbers.groupby("pipeline", sort=False):
        first = rows.iloc[0]
        got = f"{format_bytes(first['payload_bytes'])}\n{'no score' if not run.scored else _score(first)}"
        name = f"{first['pipeline']}\n" + first["point"].replace(",", "\n")
        got += "" if first["shown"] else "\ndoes not reach"
        left = [f"{name}\n{got}"] if stacked else [name, got]
        if not first["shown"]:
            drawn.add_row(*left, *["-"] * (1 + len(times)))
            continue
        uplinks = [_uplink(row) for _, row in rows.iterrows()]
        cells = ["\n".join(form(value) for value in rows[column]) for column, form in times.values()]
        drawn.add_row(*left, "\n".join(uplinks), *cells)
    return Group(*_heading(run), Text(), drawn, Text(), *_footnotes(run))


def write(run: Analysis, path: Path) -> None:
    """The table's numbers as CSV or Markdown, after the path's ending; raises ResultsError for any other ending."""
    if path.suffix == ".csv":
        disk.write_text(path, as_csv(run, run.numbers))
    elif path.suffix == ".md":
        disk.write_text(path, _markdown(run))
    else:
        raise ResultsError(f"{path}: a table is written to a file whose name ends in .csv or .md")


def as_csv(run: Analysis, numbers: pd.DataFrame) -> str:
    """Numbers of a run as CSV; the last columns of each row name the run, say whether it is VALID, and label it."""
    of_run = {
        "run": run.manifest.name,
        "validity": run.manifest.validity,
        "labels": "; ".join(label.plain for label in labels(run)),
    }
    return numbers.assign(**of_run).to_csv(index=False, lineterminator="\n")


def write_comparison(run: Analysis, path: Path) -> None:
    """The schemes against each other, who answers first, at equal score and at equal tokens, as Markdown."""
    parts = [
        f"# {run.manifest.scenario_value('title')}",
        *(text.plain for text in _heading(run)[1:]),
        "## Who answers first",
        "How many times as long as the first each scheme takes, within rounds, with the interval. Stages are "
        f"{run.times_source}.",
        *run.elsewhere,
        _first_answers(run),
    ]
    if run.scored:
        equality = run.equality
        parts += [
            "## Equal score",
            f"Where both curves have {equality.target:g} of {equality.reference}'s score. A ratio is the scheme's "
            "over the other's; its range is that over all scores that both reach. Intervals are over pictures; an end "
            "may be unbounded. BD-rate is the mean difference of bytes at equal score, BD-score that of scores at "
            "equal bytes; the classic values, without intervals, go through the points (piecewise-cubic, Akima).",
            _equal_scores(run) or "No two schemes have two or more points each that send something.",
        ]
        latencies = run.latencies_at_equal_score
        if latencies["ratio"].notna().any():
            parts += ["## Latency at equal score", _equal_latencies(run)]
        elif not latencies.empty:
            refused = "; ".join(dict.fromkeys(latencies["reason"]))
            parts += ["## Latency at equal score", f"Refused: {refused}."]
        parts += [
            "## Equal tokens",
            f"Score over that of {equality.reference}, the best of the points with as many visual tokens on average.",
            _markdown_of((100 * run.scores_at_tokens).rename(columns="{:g} tokens".format), "{:.1f} %"),
        ]
    disk.write_text(path, "\n\n".join(parts) + "\n")


def _first_answers(run: Analysis) -> str:
    if run.first.empty:
        return "Nothing was timed."
    several_users = run.first["users"].nunique() > 1
    rows = [
        [
            row["channel"],
            *([f"{row['users']:.0f}"] if several_users else []),
            row["pipeline"],
            _seconds(row["total_mean_s"]),
            f"{row['ratio']:.2f}",
            comparison.between(row["ratio_low"], row["ratio_high"], _plain),
            row["reason"],
        ]
        for row in run.first.to_dict("records")
    ]
    users = ["users"] if several_users else []
    return markdown_table(["uplink", *users, "scheme", "mean (s)", "times", "interval", "no interval because"], rows)


def _equal_scores(run: Analysis) -> str:
    found = run.equal_scores
    if found.empty:
        return ""
    header = ["scheme", "other", "bytes", "other's", "ratio", "range", "BD-rate", "BD-score", "classic", "refused"]
    rows = []
    for row in found.to_dict("records"):
        ratio, rate, gain = (
            "-" if math.isnan(row[name]) else
            f"{form(row[name])} {comparison.between(row[f'{name}_low'], row[f'{name}_high'], form)}"
            for name, form in (("ratio", _plain), ("bd_rate", _percent), ("bd_score", "{:+.1f}".format))
        )  # fmt: skip
        classic = " / ".join(_percent(row[f"bd_rate_{kind}"]) for kind in ("pchip", "akima"))
        span = "-" if math.isnan(row["least"]) else f"{row['least']:.2f} to {row['most']:.2f}"
        sizes = ["-" if math.isnan(row[name]) else format_bytes(row[name]) for name in ("test_bytes", "anchor_bytes")]
        why = "; ".join(dict.fromkeys(reason for reason in (row["reason"], row["bd_rate_reason"]) if reason))
        rows.append([row["test"], row["anchor"], *sizes, ratio, span, rate, gain, classic, why])
    return markdown_table(header, rows)


def _equal_latencies(run: Analysis) -> str:
    rows = []
    for row in run.latencies_at_equal_score.dropna(subset="ratio").to_dict("records"):
        ratio = f"{row['ratio']:.2f} {comparison.between(row['ratio_low'], row['ratio_high'], _plain)}"
        times = [_seconds(row["test_s"]), _seconds(row["anchor_s"])]
        rows.append([row["channel"], row["test"], row["anchor"], *times, ratio])
    return markdown_table(["uplink", "scheme", "other", "T (s)", "other's (s)", "ratio"], rows)


def _time_columns(run: Analysis) -> dict[str, tuple[str, _Form]]:
    """What the columns right of the uplink are called, which of the numbers they hold, and how these are written."""
    columns: dict[str, tuple[str, _Form]] = {}
    if run.numbers["users"].nunique() > 1:
        columns["users"] = ("users", _count)
    columns |= {part: (f"{part}_mean_s", _seconds) for part in run.parts}
    if not run.is_estimated:
        columns["±"] = ("total_half", _wide)
    if run.deadline_s is not None:
        columns[f"in {format_seconds(run.deadline_s)}"] = ("in_time", _share)
    return columns


def _markdown(run: Analysis) -> str:
    numbers, times = _numbers(run), _time_columns(run)
    names = ["scheme", "point", "payload", str(numbers["metric"].iloc[0]), "interval", "uplink"]
    header = [*names, *(f"{name} (s)" if form is _seconds else name for name, (_, form) in times.items())]
    lines = []
    for _, row in numbers.iterrows():
        uplink = _uplink(row) if row["shown"] else "does not reach"
        score = [f"{row['score']:.1f}", _interval(row["score_low"], row["score_high"])] if run.scored else ["none", ""]
        cells = [form(row[column]) for column, form in times.values()]
        lines.append([row["pipeline"], row["point"], format_bytes(row["payload_bytes"]), *score, uplink, *cells])
    heading = "\n\n".join(text.plain for text in _heading(run))
    notes = "\n".join(f"- {text.plain}" for text in _footnotes(run))
    return f"{heading}\n\n{markdown_table(header, lines)}\n\n{notes}\n"


def _markdown_of(of_schemes: pd.DataFrame, form: str) -> str:
    rows = [
        [str(name), *("" if pd.isna(value) else form.format(value) for value in row)]
        for name, row in of_schemes.iterrows()
    ]
    return markdown_table(["scheme", *map(str, of_schemes.columns)], rows)


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]], *, numbers_from: int | None = None) -> str:
    """A table in Markdown; a bar within a cell is no end of it. Columns from ``numbers_from`` are set to the right."""
    rule = ["---" if numbers_from is None or place < numbers_from else "---:" for place in range(len(header))]
    lines = (header, rule, *rows)
    return "\n".join(f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def _heading(run: Analysis) -> Sequence[Text]:
    manifest = run.manifest
    lines = [Text(str(manifest.scenario_value("title")), style="bold"), *labels(run)]
    # An unfinished run is not judged yet, as its last footnote says.
    return lines + (invalid(run) if manifest.validity else [])


def labels(run: Analysis) -> list[Text]:
    """A line for the stand-ins that ran, and for what ran otherwise than it was trained."""
    return [Text(label, style="yellow") for label in (run.manifest.label, run.manifest.untuned) if label]


def invalid(run: Analysis) -> list[Text]:
    """A line for each reason why a run is INVALID."""
    return [Text(f"INVALID: {reason}", style="bold red") for reason in run.reasons]


def _footnotes(run: Analysis) -> Sequence[Text]:
    equality, manifest, first = run.equality, run.manifest, run.numbers.iloc[0]
    confidence = f"{100 * equality.confidence:g} %"
    groups = "group" if first["clusters"] == 1 else "groups"
    asked = f"{first['questions']} questions in {first['clusters']} independent {groups}"
    notes = [
        f"score: {first['metric']} on {asked}, with its {confidence} interval" if run.scored else "",
        several(run),
        claimed(run),
        *comparison.first_sentences(run.first, run.numbers),
        comparison.bytes_sentence(run.equal_scores, equality.target, equality.reference) if run.scored else "",
        _timing(run),
        *run.elsewhere,
        *run.timing_warnings,
        *sorted({str(why) for why in run.numbers["total_reason"].dropna() if str(why).startswith("unstable")}),
        f"estimated for {'; '.join(run.machines)}; links replayed from payloads that are {run.bytes_source}"
        if run.is_estimated
        else f"timed on {'; '.join(run.machines) or 'no machine'} (throttling: {manifest.throttling}); links replayed",
        f"run {manifest.name}, {run.validity if manifest.validity else 'unfinished'}; "
        f"scenario {manifest.scenario_hash}; code {manifest.commits}",
    ]
    return [Text(note, style="dim") for note in notes if note]


def claimed(run: Analysis) -> str:
    """What is certified of the scores of selected points, or that no score is claimed."""
    equality = run.equality
    if not run.scored:
        return (
            f"no score is claimed: {equality.reference} scores 0, so scores cannot be compared with it; each "
            "scheme is shown at its first point"
        )
    return (
        f"selected: the fewest bytes at a score certified to be at least {100 * equality.certified:.3g} % of "
        f"{equality.reference}'s (target {equality.target:g} less margin {equality.margin:g}; one-sided, "
        f"{100 * equality.confidence:g} %, down each ladder of points)"
    )


def several(run: Analysis) -> str:
    """What a normalised score is the average of; nothing where there is one benchmark."""
    if len(names := run.manifest.benchmarks) == 1:
        return ""
    return f"normalised score: the mean of {' and '.join(names)}, each over {run.equality.reference}'s own score there"


def _timing(run: Analysis) -> str:
    numbers = run.numbers
    if not numbers["shown"].any():
        return "times: none, because no scheme reaches the target"
    replayed = numbers[numbers["requests"] > 0]
    if replayed.empty:
        return "times: none, because nothing was replayed"
    unfirm = sorted(set(replayed["total_source"].dropna()) - {"measured"})
    how_many = "some" if "measured" in run.setting.sources.values() else "all"
    lost = int((replayed["requests"] - replayed["total_done"]).sum())
    rest = f"; {lost} never answered and not in the means" if lost else ""
    rest += "" if run.deadline_s is None else f"; in {format_seconds(run.deadline_s)}: the share answered by then"
    if run.is_estimated:
        return "times: mean seconds, estimated, so without intervals over pictures" + rest
    whole = "over the whole benchmark from {} timed requests, link times from the bytes of all questions"
    own = "of the replayed requests, with their own bytes"
    of = {
        "none": whole,
        "some": f"{whole}; where requests meet or a rate varies, {own}",
        "all": f"{own}, from {{}} timed requests",
    }
    return (
        f"times: mean seconds {of[run.met].format(_range(replayed['timed']))}"
        + f"; ±: the longer side of the mean's {100 * run.equality.confidence:g} % interval"
        + (f"; {run.session}" if run.session else "")
        + (f"; {how_many} are {' and '.join(unfirm)}" if unfirm else "")
        + rest
    )


def _range(counts: "pd.Series[float]") -> str:
    low, high = int(counts.min()), int(counts.max())
    return str(low) if low == high else f"{low} to {high}"


def _numbers(run: Analysis) -> pd.DataFrame:
    """The run's numbers with the longer side of the total's interval, over the total."""
    numbers = run.numbers
    mean_s, low_s, high_s = (numbers[f"total_mean{end}_s"] for end in ("", "_low", "_high"))
    return numbers.assign(total_half=pd.concat([mean_s - low_s, high_s - mean_s], axis=1).max(axis=1) / mean_s)


def _score(row: "pd.Series[float]") -> str:
    return f"{row['score']:.1f}\n{_interval(row['score_low'], row['score_high'])}"


def _wide(half: float) -> str:
    """A relative half-width in percent, rounded up; ``none`` where there is no interval."""
    return "none" if math.isnan(half) else f"{math.ceil(100 * half)} %"


def _plain(ratio: float) -> str:
    return f"{ratio:.2f}"


def _percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{100 * share:+.0f} %"


def _uplink(row: "pd.Series[float]") -> str:
    return "not replayed" if pd.isna(row["users"]) else str(row["channel"])


def _interval(low: float, high: float) -> str:
    if low == high:
        # A normalised score of the reference's own.
        return "by definition"
    return "no interval" if math.isnan(low) else f"{low:.1f} to {high:.1f}"


def _seconds(seconds: float) -> str:
    """A time in seconds, four digits at most but three decimals at most: ``0.083``, ``1.234``, ``35.42``."""
    if math.isnan(seconds):
        return "-"
    return f"{seconds:.3f}" if seconds < 10 else f"{seconds:.2f}" if seconds < 100 else f"{seconds:.0f}"


def _share(share: float) -> str:
    """A share in whole percent; 0 % and 100 % are printed only if they are exact."""
    if math.isnan(share):
        return "-"
    text = f"{100 * share:.0f} %"
    return text if share in (0, 1) or text not in ("0 %", "100 %") else ("< 1 %" if share < 0.5 else "> 99 %")


def _count(n: float) -> str:
    return "-" if math.isnan(n) else f"{n:.0f}"
