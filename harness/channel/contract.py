"""What a channel is: a capacity over time."""

from typing import Protocol


class Channel(Protocol):
    """The capacity of a link over time, in bits; what is sent over it is :class:`harness.channel.link.Link`'s concern.

    Both methods are exact: they invert or evaluate the cumulative capacity, and never step through time.
    """

    def finish(self, start_s: float, n_bytes: float) -> float:
        """When the last of ``n_bytes`` leaves if the first is ready at ``start_s``; infinity if it never does."""
        ...

    def bits(self, start_s: float, end_s: float) -> float:
        """How many bits the link can carry after ``start_s`` and up to ``end_s``."""
        ...
