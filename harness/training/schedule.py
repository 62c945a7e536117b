"""What changes with the step: learning rates and the temperature."""

import math

from harness.training.config import Temperature


def learning_rate_factor(step: int, steps: int, warm_up: float) -> float:
    """A linear rise over the share ``warm_up`` of the steps, then half a cosine to zero; in 0..1."""
    rising = round(warm_up * steps)
    if step < rising:
        return (step + 1) / (rising + 1)
    return 0.5 + 0.5 * math.cos(math.pi * (step - rising) / max(1, steps - rising))


class Schedule:
    """The temperature of Eq. 17 over all ``steps``, pre-fit and joint training as one."""

    def __init__(self, steps: int, temperature: Temperature) -> None:
        self._given = temperature
        self._soft_steps = max(1, round((1 - temperature.hard_share) * steps))

    def temperature(self, step: int) -> float:
        """T after ``step`` steps, exponentially from start to end; 0 in the hard steps (Eq. 19)."""
        if step >= self._soft_steps:
            return 0.0
        start, end = self._given.start, self._given.end
        return float(start * (end / start) ** (step / max(1, self._soft_steps - 1)))
