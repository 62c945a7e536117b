"""``harness claims``: a publication's claims, compared with runs."""

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.app import Form
from harness.errors import ExitCode


def claims(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of runs, or folders that hold runs.")],
    file: Annotated[
        Path | None,
        typer.Option(
            "--claims", metavar="FILE", help="File with your own claims.", show_default="those of the TOFC paper"
        ),
    ] = None,
    form: Annotated[
        Form, typer.Option("--format", metavar="FORM", help="Format of the output: terminal, markdown or json.")
    ] = Form.TERMINAL,
) -> None:
    r"""Compare what the paper claims in numbers with runs: the value, its interval, a verdict on each claim.

    A claim is *reproduced*, *not reproduced*, *holds on the stand-in*, *does not hold on the stand-in*, or *not
    testable here*, with what is missing. A stand-in reproduces nothing. A claim that its interval does not decide is
    not testable here either. The exit status is 1 if a claim is not reproduced.

        harness claims results/runs/realworldqa results/runs/mme

        harness claims results/runs --claims mine.yaml --format markdown \
          > claims.md

    A file of your own has the form of `harness/claims/paper.yaml`: what was run for which claim (`studies:`), and for
    each claim its text, the number that tests it and the value that number must have:

        title: Our revision
        studies:
          street: { benchmarks: RealWorldQA, backbone: llava-onevision-7b }
        claims:
          - id: 1
            where: Table 2
            says: a third fewer bytes than WebP
            study: street
            tests:
              - { metric: mean_bytes_change, of: tofc, over: webp, value: -0.33,
                  give: 0.02 }
    """
    import json

    from harness.analysis import Analysis
    from harness.claims import ledger, model, shown
    from harness.claims.verdict import Verdict
    from harness.cli.display import terminal

    wanted = model.load(model.PAPER if file is None else file)
    given = Analysis.read_all(runs)
    found = ledger.entries(wanted, given)
    if form is Form.JSON:
        typer.echo(json.dumps(ledger.as_data(wanted, found, given), indent=2, ensure_ascii=False, allow_nan=False))
    elif form is Form.MARKDOWN:
        typer.echo(shown.markdown(wanted, found, given), nl=False)
    else:
        terminal().print(shown.ledger(wanted, found, given))
    if any(entry.verdict is Verdict.NOT_REPRODUCED for entry in found):
        raise typer.Exit(ExitCode.NEGATIVE)
