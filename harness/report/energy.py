"""Joules per answer on either side, as a table."""

import math
from collections.abc import Hashable
from typing import Any

import pandas as pd
from rich.console import Group, RenderableType
from rich.text import Text

from harness.analysis import Analysis
from harness.analysis.energy import MIN_BLOCKS, SHORT_S
from harness.report.fitting import Fitting
from harness.units import format_seconds, three_digits

_ROW = ["pipeline", "point", "rail"]


def energy_table(run: Analysis) -> RenderableType | None:
    """The joules of an answer, net and gross, a row for each point and rail; nothing if none was to be measured.

    Where none could be read it is the sentence that says so.
    """
    found = run.energy
    said = [Text(note, style="dim") for note in notes(run, found, "±: half of")]
    if found.empty:
        return said[0] if said else None
    title = "J per answer, device / server, net of idle (and gross)"
    drawn = Fitting(title=title, names=2)
    drawn.add_column("scheme, point", overflow="fold")
    drawn.add_column("rail", overflow="fold")
    for side in ("device", "server"):
        for head in (f"{side}\nnet", "±", "gross"):
            drawn.add_column(head if "\n" in head else f"\n{head}", justify="right", no_wrap=True)
    for (pipeline, point, rail), rows in found.groupby(_ROW, sort=False):
        sides = {row["side"]: row for row in rows.to_dict("records")}
        cells = [cell for side in ("device", "server") for cell in _cells(sides.get(side))]
        drawn.add_row(f"{pipeline}\n{point}", str(rail), *cells)
    return Group(drawn, *said)


def notes(run: Analysis, found: pd.DataFrame, interval: str = "interval:") -> list[str]:
    """What must be known of joules that are shown, a phrase each; nothing if no energy was to be measured.

    ``found`` are the rows of :attr:`harness.analysis.Analysis.energy` that are shown. Calibrations are of a
    side's rail. ``interval`` names what the table or figure shows of an interval.
    """
    if found.empty:
        return [run.energy_absent] if run.energy_absent else []
    rails = {f"{row['side']}/{row['rail']}": row for row in found.to_dict("records")}
    loose = [f"{row['side']}'s {row['rail']}" for row in rails.values() if not row["calibrated"]]
    given = (run.manifest.scenario_value("measure").get("energy") or {}).get("calibration", {})
    measured = {f"{row['side']}/{row['rail']}" for row in run.energy.to_dict("records")}
    calibrated, unused = [rail for rail, row in rails.items() if row["calibrated"]], sorted(given.keys() - measured)
    counts = sorted(set(found["blocks"]))
    short_s = found["shortest_s"].min()
    few = counts[0] < MIN_BLOCKS
    firm = sorted(set(found["source"]) - {"measured"})
    return [
        note
        for note in (
            f"each half runs alone in {counts[0]}{f' to {counts[-1]}' if len(counts) > 1 else ''} blocks, each "
            f"followed by an idle block; {interval} Student's "
            f"{100 * run.equality.confidence:g} % interval over blocks"
            + (f", none for fewer than {MIN_BLOCKS} blocks" if few else ""),
            "rails are not added up: one may be a part of another; a half's joules are of its machine's whole rail",
            f"read from {'; '.join(f'{sensor} on {machine}' for sensor, machine in _sensors(found))}",
            f"calibrated by the scenario: {', '.join(calibrated)}" if calibrated else "",
            f"calibrated, but not measured: {', '.join(unused)}" if unused else "",
            f"uncalibrated, because not compared with an external meter: {', '.join(loose)}" if loose else "",
            f"blocks of {format_seconds(short_s)} are shorter than {SHORT_S:g} s: sensors average over as long"
            if short_s < SHORT_S
            else "",
            f"some are {' and '.join(firm)}" if firm else "",
            run.energy_absent,
        )
        if note
    ]


def _sensors(found: pd.DataFrame) -> list[tuple[str, str]]:
    pairs = found[["sensor", "machine"]].drop_duplicates()
    return [(str(row.sensor), str(row.machine)) for row in pairs.itertuples()]


def _cells(row: dict[Hashable, Any] | None) -> tuple[str, str, str]:
    """Net, the longer side of its interval, and gross."""
    if row is None:
        return "-", "-", "-"
    half = max(row["net_high_j"] - row["net_j"], row["net_j"] - row["net_low_j"])
    return _joules(row["net_j"]), "none" if math.isnan(half) else _joules(half), _joules(row["gross_j"])


def _joules(value: float) -> str:
    return "-" if math.isnan(value) else three_digits(value)
