"""The commands. Each imports what it needs when it is called, so that ``harness --help`` answers at once."""

import errno
import io
import sys
from collections.abc import Callable
from typing import Annotated, NoReturn

import typer

from harness import __version__
from harness.cli import (
    advise,
    apart,
    check,
    claims,
    compare,
    data,
    doctor,
    estimate,
    illustrate,
    inspect,
    plan,
    reference,
    report,
    run,
    runs,
    serve,
    sweep,
    trace,
    train,
    validate,
    weights,
)
from harness.cli.app import Command, Interrupted, group
from harness.errors import ExitCode, HarnessError, printable
from harness.files import why

_RESUMED = (["run"], ["measure"], ["train"], ["data", "get"], ["weights", "get"], ["compare"], ["reference", "update"])
"""The commands that resume when they are repeated."""

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""Errors of a disk that concern no file in particular."""

app = group(
    "harness",
    """Latency studies of multimodal inference that is split between a device and an edge server.

    A scenario names a benchmark, a backbone, the schemes to compare and the uplinks to replay them over. `run`
    measures, selects operating points at equal score and replays; `plot` draws the figures.

        harness check scenarios/realworldqa_lowrate.yaml
        harness run scenarios/realworldqa_lowrate.yaml
        harness plot results/runs/realworldqa_lowrate

    A mistake in an input is reported in one sentence, with exit status 2.""",
)
for command in (
    run.run,
    run.show,
    runs.runs,
    serve.serve,
    apart.measure,
    apart.join,
    apart.replay,
    report.plot,
    report.report,
    claims.claims,
    report.pack,
    illustrate.illustrate,
    plan.plan,
    compare.compare,
    check.check,
    check.schema,
    doctor.doctor,
    estimate.estimate,
    sweep.sweep,
    advise.advise,
    advise.crossover,
    advise.max_users,
    validate.validate,
    inspect.inspect,
    train.train,
):
    app.command(cls=Command)(command)
app.add_typer(trace.app, name="trace")
app.add_typer(data.app, name="data")
app.add_typer(weights.app, name="weights")
app.add_typer(reference.app, name="reference")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tofc-harness {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None: ...


def main() -> None:
    """The entry point."""
    guarded(app, "harness", resumes=any(sys.argv[1 : 1 + len(words)] == words for words in _RESUMED))


def guarded(command: Callable[[], int | None], name: str, *, resumes: bool = False) -> NoReturn:
    """Run a command and exit: a user's mistake is one sentence on standard error and a status, never a traceback.

    ``name`` begins the sentence, and ``resumes`` says whether repeating the command resumes it.
    """
    for stream in (sys.stdout, sys.stderr):
        # Characters that the terminal cannot show, and paths that are not text, are printed as escapes.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        sys.exit(command())
    except HarnessError as error:
        _end(name, str(error), ExitCode.BAD_INPUT)
    except OSError as error:
        # An error of the operating system that the command did not expect is still one for the user to fix.
        if error.filename is None and error.errno not in _FULL:
            raise
        _end(name, f"{error.filename}: {why(error)}" if error.filename else why(error), ExitCode.BAD_INPUT)
    except (Interrupted, KeyboardInterrupt) as error:
        at = f" at {error.args[0]}" if error.args else ""
        _end(name, f"interrupted{at}" + ("; repeat the command to resume" if resumes else ""), ExitCode.INTERRUPTED)


def _end(name: str, sentences: str, code: ExitCode) -> NoReturn:
    for sentence in sentences.split("\n"):
        print(f"{name}: {printable(sentence)}", file=sys.stderr)
    sys.exit(code)
