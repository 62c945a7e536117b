"""What tests of scenarios share."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml


@pytest.fixture
def written(tmp_path: Path) -> Callable[[object], Path]:
    """Writes a scenario, as data or as text, to a file."""

    def write(content: object) -> Path:
        file = tmp_path / "study.yaml"
        file.write_text(content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False))
        return file

    return write
