"""``harness data``: the public benchmarks on this machine."""

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.app import Command, group
from harness.data import MIRROR_VARIABLE

app = group(
    "data",
    """List, fetch and check the seven benchmarks of the paper, as VLMEvalKit publishes them.

    They are stored where VLMEvalKit looks for them: in `$LMUData` if that is set and the folder exists, else in
    `~/LMUData`.

        harness data list
        harness data get RealWorldQA MME
        harness data check""",
)


@app.command("list", cls=Command)
def list_() -> None:
    """List every benchmark: its questions, whether it is installed, its published md5, and its path."""
    from harness.data.benchmarks import BENCHMARKS, locate

    for benchmark in BENCHMARKS.values():
        path = locate(benchmark.name)
        if path.exists():
            state = "installed"
        else:
            begun = path.with_name(f"{path.name}.part")
            state = "begun" if begun.exists() else "absent"
        typer.echo(f"{benchmark.name:<15}{benchmark.questions:>5} questions  {state:<9}  md5 {benchmark.md5}  {path}")


@app.command(cls=Command)
def get(
    names: Annotated[
        list[str], typer.Argument(metavar="NAME...", help="Benchmarks, by their names in 'harness data list'.")
    ],
    mirror: Annotated[
        str | None,
        typer.Option(
            envvar=MIRROR_VARIABLE,
            help="URL of a mirror with the same layout as VLMEvalKit's.",
            show_default="where VLMEvalKit publishes them",
        ),
    ] = None,
) -> None:
    """Download benchmarks.

    An interrupted download is resumed, and the md5 of each file is checked.

        harness data get RealWorldQA MME
    """
    from harness.cli.display import Bar, terminal
    from harness.data.benchmarks import PREFIX, find, folder
    from harness.data.download import download

    console = terminal()
    for benchmark in [find(name) for name in names]:
        with Bar(console, benchmark.name, sized=True) as bar:
            path = download(benchmark, folder(), mirror=mirror or PREFIX, progress=bar)
        console.print(f"{benchmark.name}: {path}, md5 {benchmark.md5}", soft_wrap=True, highlight=False)


@app.command(cls=Command)
def check(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME|FILE", help="Benchmarks, or files of your own; by default those that are installed."
        ),
    ] = None,
) -> None:
    """Read every row and picture of benchmarks, and verify the md5 of the published ones.

    Mistakes are reported with file, line, column and value, and the exit status is then 2. A benchmark of your own is a
    TSV in VLMEvalKit's form, or a folder with pictures and a CSV with the columns `image` (a file name, or several
    separated by `|`), `question`, `answer` (for a choice, a letter or an option's text), and `options` separated by
    `|`, or `A`, `B`, ..; optional are `index`, `hint`, `category`, `group`, and `metric` (`accuracy`, `circular` or
    `pairs`, the same in all rows).

        harness data check RealWorldQA

        harness data check photographs/
    """
    from harness.cache import cache_folder
    from harness.cli.display import Bar, terminal
    from harness.data import own
    from harness.data.benchmarks import BENCHMARKS, check_md5, find, folder, load, locate
    from harness.errors import DataError, HarnessError, UnavailableError, in_lines

    console = terminal()
    wanted = names or [name for name in BENCHMARKS if locate(name).exists()]
    if not wanted:
        raise UnavailableError(f"none of the benchmarks is in {folder()}; 'harness data get NAME' downloads one")
    mistakes = []
    for name in wanted:
        found: list[str] = []
        # A folder may be given without the slash that a scenario needs.
        is_path = "/" in name or name.endswith((".tsv", ".csv")) or Path(name).is_dir()
        published = name in BENCHMARKS or not is_path
        try:
            samples = load(name) if published else own.load(Path(name), cache=cache_folder())[1]
            with Bar(console, name, sized=False) as bar:
                for place in range(len(samples)):
                    try:
                        samples[place]
                    except HarnessError as error:
                        found.append(str(error))
                    bar(place + 1, len(samples))
        except HarnessError as error:
            found.append(str(error))
        try:
            if published and (not found or locate(name).exists()):
                check_md5(find(name), locate(name))
        except HarnessError as error:
            found.append(str(error))
        if not found:
            as_published = ", md5 as published" if published else ""
            console.print(f"{name}: {len(samples)} questions{as_published}", soft_wrap=True, highlight=False)
        else:
            mistakes.append(in_lines(list(dict.fromkeys(found)), name))
    if mistakes:
        raise DataError("\n".join(mistakes))
