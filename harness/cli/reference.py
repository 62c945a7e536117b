"""``harness reference``: the committed runs that others are compared with."""

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.app import Command, group

app = group("reference", "List and remake the committed runs that others are compared with.")
app.info.no_args_is_help = False
ReferenceFolder = Annotated[Path, typer.Option("--folder", metavar="DIR", help="Folder of the reference runs.")]


@app.callback(invoke_without_command=True)
def listing(context: typer.Context, folder: ReferenceFolder = Path("results/reference")) -> None:
    """List the reference runs: commit and machine, size, and the reason for each.

    `harness reference update` remakes them.

        harness reference
    """
    if context.invoked_subcommand is not None:
        return
    from rich.text import Text

    from harness.cli.display import terminal
    from harness.reference import listed
    from harness.report.fitting import Fitting
    from harness.units import format_bytes

    table = Fitting()
    for name in ("run", "commit", "made", "machine", "size", "verdict", "reason"):
        table.add_column(name)
    for manifest, update, size_bytes in listed(folder):
        made, reason = (update.date[:10], update.reason) if update else ("", "not in the history")
        words = (
            manifest.name,
            manifest.commits,
            made,
            ", ".join(manifest.machines),
            format_bytes(size_bytes),
            manifest.validity or "",
            reason,
        )
        table.add_row(*(Text(word) for word in words))
    terminal().print(table)


@app.command(cls=Command)
def update(
    reason: Annotated[str, typer.Option(help="Why the reference changes; recorded with the commit and the date.")],
    scenarios: Annotated[
        list[Path] | None,
        typer.Argument(help="Scenario files.", show_default="those of the runs in the folder"),
    ] = None,
    folder: ReferenceFolder = Path("results/reference"),
    work: Annotated[Path, typer.Option(metavar="DIR", help="Folder in which the runs are made and resumed.")] = Path(
        "results/cache/reference"
    ),
) -> None:
    r"""Run scenarios and make their runs the reference. Repeat the command to resume.

    What the rows depend on must be committed: `harness/`, `baselines/`, `scenarios/`, `constraints.txt` and
    `pyproject.toml`. Rows that the replay makes again are left out, and of the machine only processor, memory
    and accelerators are recorded. An INVALID run is made the reference too, and its reasons are printed: nothing
    that is compared is a time.

        harness reference update \
          --reason 'the codec of lambda 0.3 was trained longer' \
          scenarios/smoke.yaml
    """
    from harness import reference
    from harness.cli.display import Display, terminal
    from harness.errors import ResultsError
    from harness.runs import provenance
    from harness.scenario.fields import repeated
    from harness.scenario.load import load
    from harness.scenario.source import suggested

    if not reason.strip():
        raise typer.BadParameter("is empty; say why the reference changes", param_hint="--reason")
    files = scenarios or [Path("scenarios") / f"{name}.yaml" for name in reference.names(folder)]
    if absent := [file for file in files if not file.is_file()]:
        raise ResultsError(f"{absent[0]}: no such scenario; {suggested(absent[0])}a scenario's file is expected")
    named = {file: load(file).name for file in files}
    if (twice := repeated(named.values())) is not None:
        of_name = [str(file) for file, name in named.items() if name == twice]
        raise ResultsError(f"{' and '.join(of_name)}: have one name, {twice}, and would have one reference; rename one")
    console = terminal()
    for file in files:
        console.print(f"{file}")
        with Display(console) as display:
            command = ("harness", "run", str(file))
            done = reference.update(file, folder, work, reason=reason.strip(), reporter=display, command=command)
        made = folder / named[file]
        console.print(f"{made}: {'made' if done else 'is up to date'}")
        for cause in provenance.read(made / provenance.MANIFEST).reasons:
            console.print(f"INVALID: {cause}")
