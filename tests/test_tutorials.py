"""The tutorials of experiments/tutorials run as they are, smaller."""

import importlib.util
import sys
from pathlib import Path

import pytest

TUTORIALS = sorted((Path(__file__).parents[1] / "experiments" / "tutorials").glob("*.py"))


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_a_tutorial(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUTORIAL_STEPS", "6")
    monkeypatch.setenv("TUTORIAL_BACKBONE", "tiny")
    monkeypatch.setenv("TUTORIAL_FOLDER", str(tmp_path / "work"))
    monkeypatch.chdir(tmp_path)
    # Under a name of its own, as Jupyter runs cells in __main__: the method that a checkpoint names is found there.
    spec = importlib.util.spec_from_file_location(f"tutorial_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    text = path.read_text()
    assert text.startswith("# %% [markdown]\n")
    assert text.count("# %%\n") >= 3


def test_there_are_three() -> None:
    assert [path.stem for path in TUTORIALS] == ["new_method", "online_loop", "own_images"]
