"""Schemes against each other: the bytes of each over those of each other at equal score, and scores at equal tokens.

The second is the paper's Table I: what merging keeps of the backbone's score where all keep the same number of tokens.
"""

from pathlib import Path

import pandas as pd

from harness.analysis.select import select_run
from harness.runs import disk
from harness.runs.store import Record


def byte_ratios(points: pd.DataFrame) -> pd.DataFrame:
    """Bytes at equal score of the row's pipeline over those of the column's.

    ``points`` are :func:`harness.analysis.select.select`'s. A pipeline that does not reach the target, and one that
    sends nothing, is left out.
    """
    selected = points[points["selected"] & (points["payload_bytes"] > 0)].set_index("pipeline")["payload_bytes"]
    return pd.DataFrame({name: selected / selected[name] for name in selected.index})


def scores_at_tokens(points: pd.DataFrame) -> pd.DataFrame:
    """The best score of each pipeline with each mean number of visual tokens, over the reference's score.

    A pipeline may have several points with as many tokens, of different payloads: the best of them counts, so that it
    is merging that is compared. Null where a pipeline has no such point.
    """
    tokens = points["visual_tokens"].round(1)
    best = points.assign(tokens=tokens).groupby(["pipeline", "tokens"], sort=False)["relative_score"].max().unstack()
    return best.reindex(points["pipeline"].drop_duplicates()).sort_index(axis=1, ascending=False)


def leanest(points: pd.DataFrame) -> str:
    """One sentence: how many times the fewest bytes at equal score the others need; empty for fewer than two."""
    ratios = byte_ratios(points)
    if len(ratios) < 2:
        return ""
    first = ratios.max(axis=0).idxmax()
    others = ratios[first].drop(first).sort_values()
    listed = ", ".join(f"{name} {ratio:.2f} times as many" for name, ratio in others.items())
    return f"bytes at equal score: {first} has the fewest; {listed}"


def write(run: Record, path: Path) -> None:
    """Both tables of a run as Markdown."""
    points = select_run(run)
    ratios, scores = byte_ratios(points), scores_at_tokens(points)
    reference = points.loc[points["reference"], "pipeline"].iloc[0]
    parts = [
        f"# {run.manifest.scenario_value('title')}",
        *([run.manifest.label] if run.manifest.label else []),
        *(f"INVALID: {reason}" for reason in run.manifest.reasons if run.manifest.validity == "INVALID"),
        "Bytes at equal score, the row's over the column's. A scheme that does not reach the target is not here.",
        _markdown(ratios, "{:.3g}") if len(ratios) else "None reaches the target.",
        f"Score over that of {reference}, the best of the points with as many visual tokens on average.",
        _markdown((100 * scores).rename(columns="{:g} tokens".format), "{:.1f} %"),
    ]
    disk.write_text(path, "\n\n".join(parts) + "\n")


def _markdown(table: pd.DataFrame, form: str) -> str:
    lines = [["scheme", *(str(name) for name in table.columns)]]
    lines.append(["---"] * len(lines[0]))
    for name, row in table.iterrows():
        lines.append([str(name), *("" if pd.isna(value) else form.format(value) for value in row)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
