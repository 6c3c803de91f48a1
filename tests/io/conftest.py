"""A cache of its own, for tests that look at what is kept there."""

from pathlib import Path

import pytest


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAMSEG_CACHE", str(tmp_path / "cache"))
