"""Schemes against each other: the bytes of each over those of each other at equal score, and scores at equal tokens.

The second is the paper's Table I: what merging keeps of the backbone's score where all keep the same number of tokens.
"""

import pandas as pd


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


def leanest(ratios: pd.DataFrame) -> str:
    """One sentence on :func:`byte_ratios`: how many times the fewest bytes others need; empty for fewer than two."""
    if len(ratios) < 2:
        return ""
    first = ratios.max(axis=0).idxmax()
    others = ratios[first].drop(first).sort_values()
    listed = ", ".join(f"{name} {ratio:.2f} times as many" for name, ratio in others.items())
    return f"bytes at equal score: {first} has the fewest; {listed}"
