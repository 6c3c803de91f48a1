"""Zero-shot SAM: where it is prompted, what becomes of overlaps, and its run without a checkpoint."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from segment_anything import SamPredictor
from torch import Tensor

from lightning_samseg.__main__ import main
from lightning_samseg.errors import UserError
from lightning_samseg.methods import ZeroShot
from lightning_samseg.methods.zero_shot import class_objects, outermost_pixels
from lightning_samseg.types import IGNORED, Case
from tests.fakes import write_acdc, write_busi
from tests.grouped import grouped
from tests.official import tiny_sam, write_tiny_sam

IMAGE = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)


def reference() -> np.ndarray:
    """Class 1: a large square with an L-shaped annex, a speck; class 3: a bar; class 2 is absent."""
    mask = np.zeros((40, 56), np.uint8)
    mask[5:20, 4:19], mask[20:30, 4:6] = 1, 1
    mask[35:37, 50:53] = 1
    mask[25:28, 30:50] = 3
    return mask


def test_one_prompt_per_class_is_the_largest_component() -> None:
    objects = class_objects(reference(), 3)
    assert [class_id for class_id, _ in objects] == [1, 3]
    assert [item.area for _, item in objects] == [15 * 15 + 20, 60]
    assert objects[0][1].point("deepest") == (11, 12)
    assert [outermost_pixels(item) for _, item in objects] == [(4, 5, 18, 29), (30, 25, 49, 27)]


def test_one_prompt_per_object() -> None:
    objects = class_objects(reference(), 3, "object")
    assert [(class_id, item.area) for class_id, item in objects] == [(1, 6), (1, 245), (3, 60)]


def test_the_point_is_deepest_in_the_whole_image() -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        blobs = cv2.GaussianBlur(rng.random((40, 56)).astype(np.float32), (0, 0), 3)
        mask = (blobs > np.quantile(blobs, 0.7)).astype(np.uint8)
        _, ids, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
        largest = (ids == 1 + np.argmax(stats[1:, cv2.CC_STAT_AREA])).astype(np.uint8)
        depth = cv2.distanceTransform(cv2.copyMakeBorder(largest, 1, 1, 1, 1, cv2.BORDER_CONSTANT), cv2.DIST_L2, 5)
        x, y = class_objects(mask, 1)[0][1].point("deepest")
        assert depth[int(y) + 1, int(x) + 1] == depth.max()


class Answers(torch.nn.Module):
    """Stands in for SAM: notes the prompts, answers each with the next of the masks it was given."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.answers = logits
        self.asked: list[dict[str, Any]] = []

    def predict(self, image: np.ndarray, **prompts: Any) -> tuple[Tensor, Case]:
        self.asked.append(prompts)
        return self.answers, Case("", "", image.shape[:2], image.shape[:2])

    def restore(self, low_res: Tensor, geometry: Case) -> Tensor:
        return low_res


def method(answers: Tensor | None = None, **arguments: Any) -> ZeroShot:
    zero_shot = grouped(ZeroShot, **{"backbone": "tiny", "num_classes": 3} | arguments)
    if answers is not None:
        zero_shot.sam = Answers(answers)  # type: ignore[assignment]
    return zero_shot


@pytest.fixture
def nested() -> Tensor:
    """The first prompt's mask holds the second's; inside, the first is the surer one."""
    logits = torch.full((2, 40, 56), -1.0)
    logits[0, 5:30, 5:30] = 4.0
    logits[1, 10:20, 10:20] = 2.0
    logits[1, 35:39, 35:39] = 2.0
    return logits


def test_overlap(nested: Tensor) -> None:
    highest = method(nested).label_map(IMAGE, reference())
    assert highest[15, 15] == 1
    smaller = method(nested, overlap="smaller").label_map(IMAGE, reference())
    assert smaller[15, 15] == 3
    for labels in (highest, smaller):
        assert labels.dtype == np.uint8
        assert (labels[7, 7], labels[36, 36], labels[0, 0]) == (1, 3, 0)
        assert np.array_equal(labels > 0, (nested > 0).any(0).numpy())


def test_nothing_is_asked_for_an_empty_reference(nested: Tensor) -> None:
    zero_shot = method(nested)
    assert not zero_shot.label_map(IMAGE, np.zeros((40, 56), np.uint8)).any()
    assert zero_shot.sam.asked == []


@pytest.mark.parametrize("prompt", ["point", "box"])
@pytest.mark.parametrize("mask", ["single", "first"])
def test_what_sam_is_asked(nested: Tensor, prompt: str, mask: str) -> None:
    zero_shot = method(nested, prompt=prompt, mask=mask)
    zero_shot.label_map(IMAGE, reference())
    (asked,) = zero_shot.sam.asked
    assert asked.pop("mask") == mask
    if prompt == "point":
        assert asked["points"].tolist()[0] == [11, 12]
    else:
        assert asked["boxes"].tolist() == [[4, 5, 18, 29], [30, 25, 49, 27]]


@pytest.mark.reference
@pytest.mark.parametrize("prompt", ["point", "box"])
@pytest.mark.parametrize("mask", ["single", "first"])
def test_the_mask_is_that_of_sams_predictor(tmp_path: Path, prompt: str, mask: str) -> None:
    checkpoint = write_tiny_sam(tmp_path / "tiny.pth", image_size=64)
    sam = tiny_sam(64)
    sam.load_state_dict(torch.load(checkpoint, weights_only=True))
    predictor = SamPredictor(sam)
    predictor.set_image(IMAGE)
    lesion = np.zeros((40, 56), np.uint8)
    lesion[5:20, 4:19] = 1
    given = {"box": np.array([4, 5, 18, 19])} if prompt == "box" else {"point_coords": np.array([[11, 12]])}
    given |= {} if prompt == "box" else {"point_labels": np.array([1])}
    masks, _, _ = predictor.predict(**given, multimask_output=mask == "first")
    ours = method(checkpoint=str(checkpoint), input_size=64, prompt=prompt, mask=mask).label_map(IMAGE, lesion)
    assert 0 < masks[0].mean() < 1
    assert (ours != masks[0]).mean() < 0.002  # rounding decides where a logit is nearly 0


def test_prediction_without_reference_is_refused() -> None:
    with pytest.raises(UserError, match="takes its prompts from the reference"):
        method().predict_labels({"original": [IMAGE], "cases": []})


CONFIG = """
trainer: {accelerator: cpu, enable_progress_bar: false, logger: false}
model:
  class_path: lightning_samseg.methods.ZeroShot
  init_args: {sam: {backbone: tiny}}
data:
  class_path: DATA
  init_args: {image_size: 32, ARGUMENTS}
"""


@pytest.fixture
def configs(tmp_path: Path) -> dict[str, str]:
    busi = write_busi(tmp_path / "busi", benign=6, malignant=4)
    acdc = write_acdc(tmp_path / "acdc", {"patient099": 2}, {"patient002": 3}, {"patient001": 3})
    texts = {
        "busi": CONFIG.replace("DATA", "data_modules.BusiDataModule").replace(
            "ARGUMENTS", f"root: {busi}, split: random"
        ),
        "acdc": CONFIG.replace("DATA", "data_modules.AcdcDataModule").replace("ARGUMENTS", f"root: {acdc}"),
    }
    for name, text in texts.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    return {name: str(tmp_path / f"{name}.yaml") for name in texts}


@pytest.mark.parametrize("data", ["busi", "acdc"])
def test_a_run_needs_no_checkpoint(data: str, configs: dict[str, str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert main(["test", "--config", configs[data], "--trainer.default_root_dir", str(run)]) == 0
    result = json.loads((run / "metrics.json").read_text())
    assert result["method"].endswith("ZeroShot")
    assert result["num_cases"] == 2
    assert not (run / "checkpoints").exists()


def test_fit_has_nothing_to_do(configs: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    assert main(["fit", "--config", configs["busi"], "--trainer.default_root_dir", str(run)]) == 2
    assert "ZeroShot learns nothing" in capsys.readouterr().err
    assert not run.exists()


def test_ignored_pixels_get_no_prompt() -> None:
    """A void rim around an object belongs to none of its prompts, and a void area alone is no object."""
    mask = reference()
    rim = cv2.dilate((mask == 3).astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    mask[rim & (mask == 0)] = IGNORED
    mask[0:4, 50:56] = IGNORED
    for way in ("class", "object"):
        found, expected = class_objects(mask, 3, way), class_objects(reference(), 3, way)
        assert [(c, o.box, o.area) for c, o in found] == [(c, o.box, o.area) for c, o in expected]
