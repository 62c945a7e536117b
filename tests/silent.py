"""A reporter for tests: it shows nothing and records its calls."""


class Silent:
    """Records the warnings, the phases and the number of steps."""

    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.phases: list[tuple[str, int, int]] = []
        self.steps = 0

    def warn(self, text: str) -> None:
        """Records a warning."""
        self.warnings.append(text)

    def phase(self, name: str, total: int, done: int) -> None:
        """Records a phase."""
        self.phases.append((name, total, done))

    def advance(self) -> None:
        """Counts a step."""
        self.steps += 1
