"""Methods against benchmarks (the paper's Table I): scores at equal numbers of visual tokens, and their average."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from harness.analysis import Analysis
from harness.report.figures import style
from harness.report.figures.sheet import NARROW_IN, Chart, Sheet, of
from harness.report.table import markdown_table

_HEAD_IN, _ROW_IN = 0.2, 0.155


def draw(run: Analysis, width_in: float) -> tuple[Figure, pd.DataFrame]:
    """The table as a picture, and its numbers."""
    data, metrics = rows(run), metrics_of(run)
    benchmarks = list(metrics)
    narrow = width_in < NARROW_IN
    size = 6.5 if narrow else 7.5
    named_in = min(0.15 + max(style.width_of(name, size) for name in ("method", *data["pipeline"])), 0.32 * width_in)
    tokens_in = style.width_of("tokens", size) + 0.1
    each_in = min((width_in - 0.16 - named_in - tokens_in) / (len(benchmarks) + 1), 1.4)
    heads = [style.wrapped(f"{name} {metric}", each_in - 0.05, size) for name, metric in metrics.items()]
    heads.append(style.wrapped("average over the reference's (%)", each_in - 0.05, size))
    line_in = size * 1.25 / 72
    head_in = max(map(len, heads)) * line_in + 0.08
    methods = [style.wrapped(str(name), named_in - 0.06, size) for name in data["pipeline"]]
    heights_in = [max(_ROW_IN, len(lines) * line_in + 0.03) for lines in methods]
    groups = data["visual_tokens"].ne(data["visual_tokens"].shift()).cumsum()
    body_in = head_in + sum(heights_in) + 0.05 * int(groups.max()) + 0.1
    about = of(run, "scores at equal numbers of visual tokens", [
        "the best score of a method's points with that number of tokens; bold: the best method with that number"
    ])  # fmt: skip
    sheet = Sheet(width_in, body_in, about)
    rule = {"color": style.INK, "linewidth": 0.8}

    def line(top_in: float, **how: object) -> None:
        axes = sheet.axes(0.06, top_in, right_in[-1] - 0.06, 0.001)
        axes.set_axis_off()
        axes.plot([0, 1], [0, 0], **{**rule, **how})  # type: ignore[arg-type]
        axes.set_xlim(0, 1)

    right_in = [0.08 + named_in + tokens_in + each_in * (place + 1) for place in range(len(heads))]
    line(0.0)
    sheet.text(0.08, 0.04, "method", size, fontweight="bold")
    sheet.text(0.08 + named_in + tokens_in - 0.1, 0.04, "tokens", size, fontweight="bold", ha="right")
    for x_in, head in zip(right_in, heads, strict=True):
        for place, words in enumerate(head):
            sheet.text(x_in - 0.02, 0.04 + place * line_in, words, size, ha="right", fontweight="bold")
    top_in = head_in
    line(top_in)
    best = _best(data, benchmarks)
    for place, (row, lines) in enumerate(zip(data.to_dict("records"), methods, strict=True)):
        if place and groups.iloc[place] != groups.iloc[place - 1]:
            line(top_in + 0.02, linewidth=0.4)
            top_in += 0.05
        for number, words in enumerate(lines):
            sheet.text(0.08, top_in + 0.03 + number * line_in, words, size)
        sheet.text(0.08 + named_in + tokens_in - 0.1, top_in + 0.03, _tokens(row), size, ha="right")
        for x_in, column in zip(right_in, [*benchmarks, "average"], strict=True):
            weight = "bold" if best.at[place, column] else "normal"
            sheet.text(x_in - 0.02, top_in + 0.03, _cell(row[column]), size, ha="right", fontweight=weight)
        top_in += heights_in[place]
    line(top_in + 0.03)
    return sheet.figure, data


def texts(run: Analysis) -> Mapping[str, str]:
    """The table in Markdown and in LaTeX (booktabs)."""
    data, metrics = rows(run), metrics_of(run)
    best = _best(data, list(metrics))
    heads = ["method", "tokens", *(f"{name} {metric}" for name, metric in metrics.items()), "average (%)"]
    caption = f"{of(run, 'scores at equal numbers of visual tokens').title}."
    cells: _Cells = [
        [
            str(row["pipeline"]),
            _tokens(row),
            *((_cell(row[column]), bool(best.at[place, column])) for column in (*metrics, "average")),
        ]
        for place, row in enumerate(data.to_dict("records"))
    ]
    return {"md": _markdown(heads, cells, caption, run), "tex": _latex(heads, cells, caption, run, data)}


def rows(run: Analysis) -> pd.DataFrame:
    """A row a method and number of visual tokens: its best score in each benchmark, and their average.

    ``average`` is the mean of the scores over the reference's own, in percent. Most tokens come first.
    """
    of_each = run.benchmarks.assign(visual_tokens=run.benchmarks["visual_tokens"].round(1))
    # The tokens of a point differ from benchmark to benchmark: they are named by their mean.
    points = run.points
    mean = dict(
        zip(zip(points["pipeline"], points["point"], strict=True), points["visual_tokens"].round(1), strict=True)
    )
    of_each["visual_tokens"] = [mean[key] for key in zip(of_each["pipeline"], of_each["point"], strict=True)]
    table = of_each.pivot_table(
        index=["visual_tokens", "pipeline"], columns="benchmark", values="score", aggfunc="max", sort=False
    )
    relative = of_each.pivot_table(
        index=["visual_tokens", "pipeline"], columns="benchmark", values="relative_score", aggfunc="max", sort=False
    )
    table["average"] = 100 * relative.mean(axis=1)
    order = {name: place for place, name in enumerate(run.manifest.points)}
    found: pd.DataFrame = table.reset_index()
    found["place"] = [order[str(name)] for name in found["pipeline"]]
    found = found.sort_values(["visual_tokens", "place"], ascending=[False, True], ignore_index=True)
    return found[["pipeline", "visual_tokens", *run.manifest.benchmarks, "average"]].rename_axis(columns=None)


def metrics_of(run: Analysis) -> dict[str, str]:
    """What each benchmark's score is called, with its unit."""
    first = run.benchmarks.drop_duplicates("benchmark").set_index("benchmark")["metric"]
    return {name: str(first[name]) for name in run.manifest.benchmarks}


def _best(data: pd.DataFrame, benchmarks: Sequence[str]) -> pd.DataFrame:
    """Which numbers are the best of the methods with as many tokens, where there are several."""
    columns = [*benchmarks, "average"]
    grouped = data.groupby("visual_tokens")[columns]
    most, several = grouped.transform("max"), data.groupby("visual_tokens")["pipeline"].transform("size") > 1
    found: pd.DataFrame = (data[columns] >= most) & several.to_numpy()[:, None]
    return found


def _tokens(row: Mapping[Any, Any]) -> str:
    return f"{row['visual_tokens']:g}"


def _cell(value: float) -> str:
    return "-" if pd.isna(value) else f"{value:.1f}"


_Cells = list[list[str | tuple[str, bool]]]


def _markdown(heads: Sequence[str], cells: "_Cells", caption: str, run: Analysis) -> str:
    def shown(cell: str | tuple[str, bool]) -> str:
        words, strong = (cell, False) if isinstance(cell, str) else cell
        return f"**{words}**" if strong else words

    table = markdown_table(heads, ([shown(cell) for cell in row] for row in cells), numbers_from=1)
    head = "\n\n".join(
        text
        for text in (caption, run.manifest.label, run.manifest.untuned, *(f"INVALID: {why}" for why in run.reasons))
        if text
    )
    return f"{head}\n\n{table}\n"


def _latex(heads: Sequence[str], cells: "_Cells", caption: str, run: Analysis, data: pd.DataFrame) -> str:
    def shown(cell: str | tuple[str, bool]) -> str:
        words, strong = (cell, False) if isinstance(cell, str) else cell
        return f"\\textbf{{{escaped(words)}}}" if strong else escaped(words)

    lines = ["\\begin{table}", "\\centering"]
    notes = " ".join(
        [
            caption,
            *(
                f"{text}."
                for text in (run.manifest.label, run.manifest.untuned, *(f"INVALID: {w}" for w in run.reasons))
                if text
            ),
        ]
    )
    lines.append(f"\\caption{{{escaped(notes)}}}")
    lines += [f"\\begin{{tabular}}{{l{'r' * (len(heads) - 1)}}}", "\\toprule"]
    lines += [" & ".join(escaped(head) for head in heads) + " \\\\", "\\midrule"]
    for place, row in enumerate(cells):
        if place and data["visual_tokens"].iloc[place] != data["visual_tokens"].iloc[place - 1]:
            lines.append("\\midrule")
        lines.append(" & ".join(shown(cell) for cell in row) + " \\\\")
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", "\\end{table}"]) + "\n"


_SPECIAL = {
    "\\": "\\textbackslash{}", "{": "\\{", "}": "\\}", "&": "\\&", "%": "\\%", "$": "\\$", "#": "\\#", "_": "\\_",
    "~": "\\textasciitilde{}", "^": "\\textasciicircum{}",
}  # fmt: skip


def escaped(text: str) -> str:
    """A text as LaTeX sets it, sign for sign."""
    return "".join(_SPECIAL.get(sign, sign) for sign in text)


def _missing(run: Analysis) -> str:
    if run.scored:
        return ""
    return (
        f"no score is claimed, because {run.equality.reference} scores 0 in some benchmark; "
        "'harness run scenarios/ablation_merging.yaml' makes a run with scores"
    )


TABLE1 = Chart(what="scores of methods in benchmarks, and their average", missing=_missing, draw=draw, texts=texts)
