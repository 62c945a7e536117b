"""Connections that cannot block a server: those that send no request in time, and those too many, are closed."""

import asyncio
from typing import Any, ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

MOST_CONNECTIONS = 256
"""Open at once. When there are more, those that have waited longest without a whole head are closed first."""


class Guarded(H11Protocol):
    """uvicorn's protocol with a time limit on heads, since uvicorn waits for ever, and a limit on connections."""

    head_s: ClassVar[float] = 10.0
    """How long a connection may take to send a request's head."""

    _waiting: ClassVar[dict["Guarded", asyncio.TimerHandle]] = {}
    """The connections that have not sent a head, in the order in which they began to wait."""

    def connection_made(self, transport: Any) -> None:
        """Begins to wait for a head; closes the longest waiting connection where there are too many."""
        super().connection_made(transport)
        if len(self.connections) > MOST_CONNECTIONS:
            (next(iter(self._waiting), None) or self)._give_up()
        if not transport.is_closing():
            self._wait()

    def data_received(self, data: bytes) -> None:
        """Passes bytes on; a connection whose head is incomplete waits, one with a complete head does not."""
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._stop_waiting()
        elif self not in self._waiting and self.conn.trailing_data[0] and not self.transport.is_closing():
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forgets the connection."""
        self._stop_waiting()
        super().connection_lost(exc)

    def _wait(self) -> None:
        self._waiting[self] = self.loop.call_later(self.head_s, self._give_up)

    def _stop_waiting(self) -> None:
        if (timer := self._waiting.pop(self, None)) is not None:
            timer.cancel()

    def _give_up(self) -> None:
        self._stop_waiting()
        self.transport.abort()
