"""A reporter for tests: it shows nothing and keeps what it was told."""


class Silent:
    """Keeps the warnings, the phases and how many steps there were."""

    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.phases: list[tuple[str, int, int]] = []
        self.steps = 0

    def warn(self, text: str) -> None:
        """Keeps a warning."""
        self.warnings.append(text)

    def phase(self, name: str, total: int, done: int) -> None:
        """Keeps a phase."""
        self.phases.append((name, total, done))

    def advance(self) -> None:
        """Counts a step."""
        self.steps += 1
