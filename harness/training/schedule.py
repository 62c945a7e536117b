"""What depends on the step: the temperature of Eq. 17 and the learning rates; and both as a table."""

import math

from harness.tofc.router import temperature_at
from harness.training.config import TrainingConfig, learns_reducer
from harness.training.fit import learning_rate_factor


class Schedule:
    """The temperature: ``start`` in a pre-fit, then over the ``steps`` of the joint training as configured.

    Where there is no joint training, it falls over the pre-fit.
    """

    def __init__(self, config: TrainingConfig, steps: int) -> None:
        self._config, self._steps = config, steps
        falls_over = steps or config.prefit.steps
        self._soft_steps = max(1, round((1 - config.temperature.hard_share) * falls_over))

    def of_prefit(self, step: int) -> float:
        """T of step ``step`` of the pre-fit."""
        return self._config.temperature.start if self._steps else self.temperature(step)

    def temperature(self, step: int) -> float:
        """T of a step of the last stage, exponentially from start to end; 0 in the hard steps (Eq. 19) and uncoded."""
        if self._config.codec is None:
            return 0.0
        if step >= self._soft_steps:
            return 0.0
        given = self._config.temperature
        return temperature_at(step / max(1, self._soft_steps - 1), given.start, given.end)

    def step_range(self) -> float:
        """The largest factor by which the joint training can change the quantiser's step.

        Adam moves a logarithm by at most its learning rate in each step.
        """
        if self._config.codec is None or self._config.codec.step != "learned":
            return 1.0
        factors = (learning_rate_factor(step, self._steps, self._config.warm_up) for step in range(self._steps))
        return math.exp(min(50.0, self._config.learning_rates.step * sum(factors)))

    def lines(self) -> list[str]:
        """Stage, step, T, lambda, distortion and learning rates at the quarters of each stage."""
        config, rates = self._config, self._config.learning_rates
        prefit = config.prefit
        tuned = {"codec": rates.codec}
        if config.codec is None:
            tuned = {"reducer": rates.codec} if learns_reducer(config.scheme) else {}
        elif config.codec.step == "learned":
            tuned["step"] = rates.step
        adapted = {"language": rates.language, "vision": rates.vision, "projector": rates.projector}
        stages = (
            ("prefit", prefit.steps, config.prefit_rate_weight, prefit.distortion, tuned),
            ("joint", self._steps, config.rate_weight or 0.0, "answers", tuned | (adapted if config.lora.rank else {})),
        )
        found = [f"{'stage':7} {'step':>6} {'T':>6} {'lambda':>8}  {'distortion':10}  learning rates"]
        for name, steps, weight, distortion, parts in stages:
            for step in sorted({min(round(quarter * steps / 4), steps - 1) for quarter in range(5)} if steps else ()):
                temperature = self.temperature(step) if name == "joint" else self.of_prefit(step)
                factor = learning_rate_factor(step, steps, config.warm_up)
                shown = "  ".join(f"{part} {rate * factor:.2g}" for part, rate in parts.items())
                found.append(f"{name:7} {step:6} {temperature:6.3g} {weight:8.3g}  {distortion:10}  {shown}")
        return found
