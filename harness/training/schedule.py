"""How the temperature of Eq. 17 changes with the step."""

from harness.tofc.router import temperature_at
from harness.training.config import Temperature


class Schedule:
    """The temperature over all ``steps``, pre-fit and joint training as one."""

    def __init__(self, steps: int, temperature: Temperature) -> None:
        self._given = temperature
        self._soft_steps = max(1, round((1 - temperature.hard_share) * steps))

    def temperature(self, step: int) -> float:
        """T after ``step`` steps, exponentially from start to end; 0 in the hard steps (Eq. 19)."""
        if step >= self._soft_steps:
            return 0.0
        return temperature_at(step / max(1, self._soft_steps - 1), self._given.start, self._given.end)
