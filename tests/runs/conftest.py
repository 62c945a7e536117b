"""What tests of runs share."""

import os

import pytest


@pytest.fixture(autouse=True)
def _unflushed(monkeypatch: pytest.MonkeyPatch) -> None:
    """No power failure is tested: written data is there without waiting for the disk."""
    monkeypatch.setattr(os, "fsync", lambda _: None)
