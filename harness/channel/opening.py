"""From an uplink as a scenario declares it to a channel that a transfer can be computed on."""

import numpy as np

from harness.channel.constant import Constant
from harness.channel.contract import Channel
from harness.scenario.replay import ConstantUplink, Uplink


def open_channel(uplink: Uplink, seed: np.random.SeedSequence) -> Channel:
    """The channel that ``uplink`` describes; ``seed`` decides where a trace begins and how a chain goes on.

    Raises TraceError for a file that is not what it should be.
    """
    match uplink:
        case ConstantUplink():
            return Constant(uplink.rate_bps)
        case _:
            raise NotImplementedError(uplink.kind)
