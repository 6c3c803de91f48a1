"""Rows of a stream: scores against the metrics' own, files that are cut back, the table at the end."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lightning_samseg.errors import UserError
from lightning_samseg.online.predictions import Feedback, PromptOutcome, PromptPrediction, assemble
from lightning_samseg.online.row_files import RowFile, image_fields, read_prompt_alphas, read_rows, read_updates
from lightning_samseg.online.scores import ImageRow, PromptRow, format_summary, image_row, prompt_rows, summary
from lightning_samseg.prompts.boxes import Box
from lightning_samseg.types import IGNORED, Case

CASE = Case("case, 1", "case.png", (8, 10), (8, 10), slice_index=4, num_slices=9)


def prediction() -> Any:
    """One prompt whose crop cuts SAM's mask in half; the fusion keeps a quarter of it."""
    sam = torch.full((8, 10), -2.0)
    sam[2:6, 2:6] = 3
    crop = Box(0, 0, 4, 8)
    auxiliary = torch.full((8, 4), -4.0)
    auxiliary[2:4] = 4
    prompt = PromptPrediction(
        crop, torch.zeros(3, 32, 32), torch.zeros(1, 32, 32), sam[crop.slices], auxiliary, torch.tensor(0.25)
    )
    return assemble(3, (prompt,), sam.sigmoid())


def row(position: int, set_name: str = "a", **changes: Any) -> ImageRow:
    values = dict(
        zip(
            ImageRow._fields,
            [position, set_name, f"case{position}", 0, 1, "expert", 0.5] + [0.5, 4.0] * 3 + [0] * 4,
            strict=True,
        )
    )
    return ImageRow(**values | changes)  # type: ignore[arg-type]


def test_an_image_is_scored_as_it_was_predicted() -> None:
    reference = np.zeros((8, 10), np.uint8)
    reference[2:6, 2:6] = 1
    scored = image_row(prediction(), Feedback("expert", (None,)), reference, CASE, "malignant")
    assert (scored.position, scored.set_name, scored.case_id, scored.slice_index) == (3, "malignant", "case, 1", 4)
    assert (scored.prompts, scored.feedback, scored.alpha, scored.empty_reference) == (1, "expert", 0.25, 0)
    assert (scored.sam_dsc, scored.sam_hd) == (1, 0)
    assert (scored.sam_clipped_dsc, scored.sam_clipped_hd) == (pytest.approx((2 * 8 + 1) / (8 + 16 + 1)), 2)
    # 0.25 * SAM + 0.75 * auxiliary: rows 2 and 3 of the crop, all four columns.
    assert scored.learned_dsc == pytest.approx((2 * 4 + 1) / (8 + 16 + 1))
    assert scored.learned_hd == pytest.approx(math.hypot(2, 2))
    nothing = image_row(prediction(), Feedback("none", (None,)), np.zeros((8, 10), np.uint8), CASE, "a")
    assert nothing.empty_reference == 1
    assert (scored.sam_empty, scored.sam_clipped_empty, scored.learned_empty) == (0, 0, 0)
    missed = prediction()
    missed.mask[:], missed.sam_clipped[:] = False, False
    missed = image_row(missed, Feedback("none", (None,)), reference, CASE, "a")
    assert (missed.sam_empty, missed.sam_clipped_empty, missed.learned_empty) == (0, 1, 1)
    assert nothing.sam_hd == pytest.approx(math.hypot(8, 10))


def test_a_row_per_prompt() -> None:
    outcome = PromptOutcome(torch.tensor(0.5), torch.tensor(-1), torch.tensor(0.75))
    (box,) = prompt_rows(prediction(), [outcome], np.array([[0.0, 0.0, 4.0, 8.0]]), CASE)
    assert box[:5] == (3, "case, 1", 4, 0, "box")
    assert (box.crop_x1, box.crop_y1, box.alpha, box.alpha_star, box.loss, box.replaced) == (4, 8, 0.25, 0.75, 0.5, -1)
    assert math.isnan(box.x)
    (point,) = prompt_rows(prediction(), [PromptOutcome(None, None, None)], np.array([[2.5, 3.0]]), CASE)
    assert (point.kind, point.x, point.y, point.replaced) == ("point", 2.5, 3.0, None)
    assert math.isnan(point.alpha_star)


@pytest.mark.parametrize("column", ["aux_ol", "direct_ol"])
def test_rows_come_back_as_they_were(tmp_path: Path, column: str) -> None:
    file = RowFile(tmp_path / "new" / "cases.csv", image_fields(column))
    rows = [row(0, "a, b", sam_hd=math.nan), row(1, learned_dsc=1 / 3)]
    file.append(rows[:1])
    size = file.size
    assert f",{column}_dsc,{column}_hd," in file.path.read_text()
    file.append(rows[1:])
    assert [tuple(map(str, each)) for each in read_rows(file.path)] == [tuple(map(str, each)) for each in rows]
    content = file.path.read_bytes()
    with file.path.open("a") as damaged:
        damaged.write("2,half a row")
    again = RowFile(file.path, image_fields(column), size)
    again.append(rows[1:])
    assert file.path.read_bytes() == content
    with pytest.raises(UserError, match=r"cases\.csv lacks rows"):
        RowFile(file.path, image_fields(column), len(content) + 1)
    with pytest.raises(UserError, match="found: 0 bytes"):
        RowFile(tmp_path / "gone.csv", image_fields(column), 10)
    prompts = RowFile(tmp_path / "prompts.csv", PromptRow._fields)
    prompts.append(prompt_rows(prediction(), [PromptOutcome(None, None, None)], np.array([[2.5, 3.0]]), CASE))
    assert read_prompt_alphas(prompts.path) == [0.25]
    assert prompts.path.read_text().splitlines()[1] == '3,"case, 1",4,0,point,2.5,3.0,0,0,4,8,0.25,,,,0,0'


def test_updates_come_back_from_what_a_kill_left(tmp_path: Path) -> None:
    path = tmp_path / "prompts.csv"
    assert read_updates(path) == {}
    file = RowFile(path, PromptRow._fields)
    outcomes = [PromptOutcome(None, None, None, updates, 3 - updates) for updates in (12, 0)]
    rows = prompt_rows(prediction(), outcomes[:1], np.array([[2.5, 3.0]]), CASE)
    file.append([*rows, rows[0]._replace(prompt=1, updates=0)])
    assert read_updates(path) == {(3, 0): 12, (3, 1): 0}
    whole = path.read_text()
    for cut in range(1, len(",3\n") + 3):
        path.write_text(whole[:-cut])
        assert read_updates(path) in ({(3, 0): 12}, {(3, 0): 12, (3, 1): 0})


def test_a_file_of_an_earlier_version_keeps_its_columns(tmp_path: Path) -> None:
    path = tmp_path / "prompts.csv"
    earlier = RowFile(path, PromptRow._fields[:-2])
    rows = prompt_rows(prediction(), [PromptOutcome(None, None, None)], np.array([[2.5, 3.0]]), CASE)
    earlier.append([row[:-2] for row in rows])
    RowFile(path, PromptRow._fields, earlier.size).append(rows)
    head, first, second = path.read_text().splitlines()
    assert head.endswith(",loss,replaced")
    assert first == second
    assert read_updates(path) == {}


def test_the_table() -> None:
    rows = [
        row(0, "b", learned_dsc=0.9, learned_hd=1.0, alpha=1.0, prompts=3),
        row(1, "b", learned_dsc=0.7, feedback="none", alpha=0.2, learned_empty=1),
        row(2, "a", prompts=0, alpha=math.nan, sam_hd=math.nan, sam_clipped_hd=math.nan, learned_hd=math.nan),
    ]
    table = summary(rows)
    assert table["aux_ol"] == {"dsc": pytest.approx(0.7), "hd": 2.5}
    assert table["mean_alpha"] == pytest.approx((3 * 1.0 + 0.2) / 4)
    assert (table["images"], table["prompts"], table["rectified"]) == (3, 4, 2)
    assert (table["without_prompt"], table["dropped"]) == (1, 1)
    assert table["empty_predictions"] == {"sam": 0, "sam_clipped": 0, "aux_ol": 1}
    assert list(table["sets"]) == ["b", "a"]
    assert table["sets"]["b"]["aux_ol"] == {"dsc": pytest.approx(0.8), "hd": 2.5}
    assert (table["sets"]["a"]["sam"], table["sets"]["a"]["mean_alpha"]) == ({"dsc": 0.5, "hd": None}, None)
    lines = format_summary(table).splitlines()
    assert lines[2].split() == ["b", "2", "50.00", "4.00", "50.00", "4.00", "80.00", "2.50"]
    assert lines[3].split() == ["a", "1", "50.00", "-", "50.00", "-", "50.00", "-"]
    assert lines[4].split()[0] == "all"
    assert lines[0].endswith(" SAM + AuxOL")
    assert format_summary(summary(rows, "direct_ol")).splitlines()[0].endswith(" DirectOL")
    assert summary(rows, "direct_ol")["direct_ol"] == table["aux_ol"]


def test_ignored_pixels_are_not_scored() -> None:
    """SAM finds rows 2 to 5; of the reference rows 2 and 3 are known, and what is right of column 3 is not."""
    reference = np.zeros((8, 10), np.uint8)
    reference[2:4, 2:6] = 1
    reference[4:, :], reference[:, 4:] = IGNORED, IGNORED
    scored = image_row(prediction(), Feedback("expert", (None,)), reference, CASE, "a")
    assert (scored.sam_dsc, scored.sam_hd, scored.sam_clipped_dsc) == (1, 0, 1)
    assert scored.learned_dsc == pytest.approx((2 * 4 + 1) / (8 + 4 + 1))  # 2 x 4 of which 2 x 2 are right
    reference[reference == 1] = 0
    assert image_row(prediction(), Feedback("none", (None,)), reference, CASE, "a").empty_reference == 1
