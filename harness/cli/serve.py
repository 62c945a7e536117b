"""``harness serve``: the server halves of a scenario's schemes behind HTTP."""

import ipaddress
import os
import socket
from pathlib import Path
from typing import Annotated

import typer

from harness.cli.app import SIZE, SOME_SECONDS
from harness.cli.run import Limit, Overrides, given
from harness.edge import TOKEN_VARIABLE


def serve(
    scenario: Annotated[Path, typer.Argument(help="A scenario file, the same as on the device.")],
    overrides: Overrides = None,
    limit: Limit = None,
    listen: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Address to listen on; port 0 takes a free one.")
    ] = "127.0.0.1:8000",
    most: Annotated[int, typer.Option(help="Largest request that is accepted.", **SIZE)] = "64 MiB",  # type: ignore[assignment]
    within: Annotated[
        float, typer.Option(help="Time within which a request must have arrived.", **SOME_SECONDS)
    ] = "120 s",  # type: ignore[assignment]
    queue: Annotated[
        int,
        typer.Option(min=1, max=1024, help="Requests that may wait or be answered at once; further ones are refused."),
    ] = 8,
    no_stand_in: Annotated[
        bool, typer.Option("--no-stand-in", help="Fail if the scenario's own backbone is not installed.")
    ] = False,
) -> None:
    r"""Serve the server halves of a scenario's schemes to devices, until Ctrl-C or SIGTERM.

    A device runs `harness run SCENARIO --server http://HOST:PORT`. Only the parts of the model that server halves need
    are loaded, and the benchmark is not needed. Requests are answered one at a time; those that were accepted are
    answered before the server stops.

    On an address that other machines reach, a bearer token is required: the same text in `TOFC_HARNESS_TOKEN` on both
    sides, at least 16 characters. The server speaks plain HTTP: if the network is not yours, put a proxy with TLS in
    front of it and give the device the proxy's https address, and in `SSL_CERT_FILE` the certificate of your own
    authority, if there is one. The proxy's time counts as link time.

    `/health` says whether requests are accepted, `/info` what is served and by which machine. `/conditions` has that
    machine's clocks and temperatures, `/energy` its joules, and `/metrics` the format of Prometheus.

        TOFC_HARNESS_TOKEN=... harness serve scenarios/smoke.yaml \
          --listen 0.0.0.0:8000
    """
    from harness import loaded
    from harness.edge.server import ServerLimits, listening
    from harness.edge.server import serve as serve_halves
    from harness.stock import take_stock

    host, port = _parted(listen)
    token = _token()
    if token is None and not _is_loopback(host):
        raise typer.BadParameter(
            f"other machines reach {host}: put a token of at least 16 characters into {TOKEN_VARIABLE}, here and on "
            "the device",
            param_hint="--listen",
        )
    stock = take_stock(given(scenario, overrides, limit)[0], allow_stand_ins=not no_stand_in, serving=True)
    with listening(host, port) as listener:
        for sentence in stock.absent:
            typer.echo(sentence, err=True)
        limits = ServerLimits(most_bytes=most, body_s=within, waiting=queue)
        service = loaded.service(stock, token=token, limits=limits)
        address = _address(listener)
        points = f"{len(stock.points)} operating points of {stock.backbone}"
        serve_halves(service, listener, lambda: typer.echo(f"serving {stock.scenario.name}, {points}, on {address}"))
    typer.echo("stopped; every accepted request was answered")


def _parted(listen: str) -> tuple[str, int]:
    host, colon, port = listen.rpartition(":")
    if not (colon and host and port.isascii() and port.isdecimal() and int(port[:6]) < 1 << 16):
        raise typer.BadParameter(f"{listen!r} is not HOST:PORT, such as 127.0.0.1:8000", param_hint="--listen")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _token() -> str | None:
    token = os.environ.get(TOKEN_VARIABLE, "").strip()
    if token and (len(token) < 16 or not token.isascii() or not token.isprintable()):
        raise typer.BadParameter(f"{TOKEN_VARIABLE} holds {len(token)} characters; a token is 16 or more, in ASCII")
    return token or None


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
