"""A Ray cluster: an existing one, or else a local one."""

import contextlib
import importlib.util
import logging
import os
import socket
import urllib.parse
from collections.abc import Callable, Iterator
from typing import Any

from harness.errors import UnavailableError, shown
from harness.files import why
from harness.reporter import unsaid

ADDRESS = "RAY_ADDRESS"
"""The variable that names a cluster."""

_CONNECT_S = 10.0
"""How long a cluster may take to answer. Ray itself tries for minutes, and may then kill the process."""
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
"""The preface of a client of HTTP/2, and so of gRPC; the server's first frame is of the type SETTINGS (RFC 9113,
3.4)."""
_SETTINGS = 4
_ABSENT = "Ray is not installed; 'pip install tofc-harness[ray]' adds it"
_EXPECTED = "HOST:6379 of a running head ('ray start --head'), ray://HOST:10001, auto or local is expected"


def check_address() -> str | None:
    """What RAY_ADDRESS names, after its cluster has answered; None where it names none. Ray is not imported.

    Raises UnavailableError where Ray is not installed, the address is malformed, or no cluster answers there in time.
    """
    if importlib.util.find_spec("ray") is None:
        raise UnavailableError(_ABSENT)
    address = os.environ.get(ADDRESS, "")
    if address in ("", "auto", "local"):
        return None
    scheme, _, rest = address.rpartition("://")
    if scheme in ("", "ray"):
        _check(f"{ADDRESS}={address}", rest)
    return address


def _check(named: str, host_and_port: str) -> None:
    """Raises UnavailableError where nothing that speaks gRPC answers in time."""
    try:
        found = urllib.parse.urlsplit(f"//{host_and_port}")
        host, port = found.hostname, found.port
    except ValueError:
        host, port = None, None
    if not host or not port or found.netloc != host_and_port:
        raise UnavailableError(f"{named[:200]}: is not an address of a Ray cluster; {_EXPECTED}")
    try:
        with socket.create_connection((host, port), timeout=_CONNECT_S) as connection:
            if os.environ.get("RAY_USE_TLS", "0") in ("0", ""):
                connection.sendall(_PREFACE)
                head = connection.recv(9, socket.MSG_WAITALL)
                if head[3:4] != bytes((_SETTINGS,)):
                    raise UnavailableError(
                        f"{named}: something other than a Ray cluster answers there ({shown(head)}); {_EXPECTED}"
                    )
    except TimeoutError:
        raise UnavailableError(f"{named}: no Ray cluster answers there in {_CONNECT_S:g} s; {_EXPECTED}") from None
    except OSError as error:
        raise UnavailableError(f"{named}: no Ray cluster answers there: {why(error)}; {_EXPECTED}") from None


@contextlib.contextmanager
def connected(tell: Callable[[str], None] = unsaid) -> Iterator[Any]:
    """The module ``ray``, connected to a cluster; one that was started for it ends afterwards.

    ``tell`` is called with a line before anything that may take long. Raises UnavailableError as :func:`check_address`,
    and where a cluster can be neither reached nor started.
    """
    try:
        import ray
    except ModuleNotFoundError:
        raise UnavailableError(_ABSENT) from None
    ours = not ray.is_initialized()
    if ours:
        _connect(ray, tell)
    try:
        yield ray
    finally:
        if ours:
            ray.shutdown()


def _connect(ray: Any, tell: Callable[[str], None]) -> None:
    address = os.environ.get(ADDRESS, "")
    tell(f"connecting to Ray at {address}" if address else "connecting to Ray on this machine, or starting it")
    check_address()
    # A local cluster reports no usage; an existing one was configured by its owner.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        ray.init(log_to_driver=False, include_dashboard=False, logging_level=logging.ERROR)
    except Exception as error:  # Ray raises nothing more specific.
        reason = " ".join(str(error).split()) or type(error).__name__
        where = f"{ADDRESS}={address}: the cluster cannot be used" if address else "no Ray cluster can be used"
        raise UnavailableError(f"{where} from here: {reason:.500}") from None
