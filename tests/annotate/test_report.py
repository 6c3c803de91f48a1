"""The numbers of an expert's work, and the report of them."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightning_samseg.__main__ import main
from lightning_samseg.annotate.effort import image_effort, totals
from tests.annotate.conftest import annotate

pytestmark = pytest.mark.usefixtures("one_thread")


def test_numbers_counted_by_hand() -> None:
    accepted = np.array([[1, 1, 0, 0]], np.uint8)
    sam, clipped, fused = (np.array([row], bool) for row in ([1, 1, 1, 1], [0, 1, 1, 0], [1, 0, 0, 0]))
    found = image_effort(accepted, sam, clipped, fused)
    assert found["changed"] == {"sam": 2, "sam_clipped": 2, "aux_ol": 1, "empty": 2}
    assert found["dsc"] == pytest.approx({"sam": 2 / 3, "sam_clipped": 1 / 2, "aux_ol": 2 / 3})
    nothing = np.zeros((1, 4), bool)
    assert image_effort(nothing.astype(np.uint8), nothing, nothing, fused)["dsc"] == {
        "sam": 1,
        "sam_clipped": 1,
        "aux_ol": 0,
    }
    entry: dict[str, Any] = {"numbers": found, "blind": True, "effort": {"seconds": 3.0}, "position": 0, "alpha": 0.5}
    table = totals([entry, entry | {"blind": False, "effort": {}}])
    assert table["changed"] == {"sam": 4, "sam_clipped": 4, "aux_ol": 2, "empty": 4}
    assert table["saved_effort"] == 0.5
    assert (table["seconds"], table["blind"]["accepted"], table["blind"]["seconds"]) == (3.0, 1, 3.0)
    assert totals([])["saved_effort"] is None


def test_blind_images_hide_the_fused_mask(workspace_engine: Any, data: Path, tmp_path: Path) -> None:
    with workspace_engine(tmp_path / "w", blind=0.5) as engine:
        images = list(engine.workspace.images.values())
        blind = [engine.board.is_blind(image) for image in images]
        assert 0 < sum(blind) < len(images)
        for image, hidden in zip(images, blind, strict=True):
            answer = engine.ask(image.id, [{"box": [5, 5, 30, 30]}])
            assert (answer["fused"] is None, answer["prompts"][0]["fused"] is None) == (hidden, hidden)
            assert engine.open(image.id, "a", "")["blind"] == hidden
            accepted = annotate(engine, data, image.id)
            assert accepted["numbers"]["blind"]["accepted"] == sum(blind[: image.number + 1])
        assert [each["blind"] for each in engine.workspace.accepts] == blind


def test_a_report(workspace_engine: Any, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "workspace.json").write_text('{"settings": {"class_name": "disc"}}')
    command = ["report", str(tmp_path / "w"), "--out", str(tmp_path / "report")]
    assert main(command) == 2
    assert "Nothing is accepted" in capsys.readouterr().err
    with workspace_engine(tmp_path / "w", blind=0.5) as engine:
        for image_id in engine.workspace.images:
            annotate(engine, data, image_id)
        assert main(command) == 0  # while it is in use
        numbers = engine.board.numbers()
    with (tmp_path / "report" / "effort.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6
    assert sum(int(row["aux_ol_changed"]) for row in rows) == numbers["changed"]["aux_ol"]
    assert [float(row["seconds"]) for row in rows] == [1.5] * 6
    shown = capsys.readouterr().out
    assert f"{100 * numbers['dsc']['aux_ol']:.2f}" in shown
    assert "biased upwards" in (tmp_path / "report" / "effort.md").read_text()
    assert (tmp_path / "report" / "effort.png").stat().st_size > 10_000
