"""The commands. Each imports what it needs when it is called, so that ``harness --help`` answers at once."""

import sys
from typing import Annotated

import typer

from harness import __version__
from harness.cli import advise, check, data, inspect, plot, run, sweep, trace, train, validate, weights
from harness.errors import HarnessError

app = typer.Typer(
    name="harness",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""Latency studies of multimodal inference that is split between a device and an edge server.

    A scenario names a benchmark, a backbone, the schemes to compare and the uplinks to replay them over. `run`
    measures, selects operating points at equal score and replays; `plot` draws what `run` found.

        harness check scenarios/realworldqa_lowrate.yaml
        harness run scenarios/realworldqa_lowrate.yaml
        harness plot results/runs/realworldqa_lowrate

    A mistake in an input is said in one sentence, with exit status 2.""",
)
for command in (
    run.run,
    run.show,
    plot.plot,
    check.check,
    check.schema,
    sweep.sweep,
    advise.advise,
    advise.crossover,
    advise.max_users,
    validate.validate,
    inspect.inspect,
    train.train,
):
    app.command()(command)
app.add_typer(trace.app, name="trace")
app.add_typer(data.app, name="data")
app.add_typer(weights.app, name="weights")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tofc-harness {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None: ...


def main() -> None:
    """The entry point: a user's mistake is one sentence on standard error and status 2, never a traceback."""
    try:
        app()
    except HarnessError as error:
        for sentence in str(error).splitlines():
            print(f"harness: {sentence}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("harness: stopped; what was finished is kept, and the same command takes up from there", file=sys.stderr)
        sys.exit(130)
