"""Each convention against its source: medpy and recorded numbers for CPC-SAM, MONAI for AuxOL, the stated rules."""

import math
import warnings

import numpy as np
import pytest
import torch
from medpy.metric import binary as medpy

from lightning_samseg.errors import UserError
from lightning_samseg.metrics.conventions import CONVENTIONS, distance_unit, find_convention, score_case
from lightning_samseg.types import IGNORED

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from monai.metrics import compute_hausdorff_distance

DISTANCES = ("hd95", "asd", "assd", "hd")


def label_maps(seed: int, shape: tuple[int, ...], num_classes: int) -> list[np.ndarray]:
    """Two blocky label maps that overlap in part; with few blocks, a class may be empty in one or in both."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, num_classes + 1, size=[2, *(-(-side // 3) for side in shape)])
    fine = coarse
    for axis, side in enumerate(shape, start=1):
        fine = fine.repeat(3, axis=axis).take(range(side), axis=axis)
    fine = np.where(rng.random(fine.shape) < 0.1, 0, fine)
    return [labels.astype(np.uint8) for labels in fine]


def monai_hd(prediction: np.ndarray, reference: np.ndarray) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MONAI warns of empty masks
        return compute_hausdorff_distance(
            *[torch.from_numpy(m)[None, None].float() for m in (prediction, reference)]
        ).item()


@pytest.mark.reference
@pytest.mark.parametrize("shape", [(13, 17), (4, 9, 10)])
def test_cpc_sam_equals_medpy(shape):
    spacing = (10.0, 1.5, 1.3)[-len(shape) :]
    compared = 0
    for seed in range(60):
        prediction, reference = label_maps(seed, shape, num_classes=3)
        for score in score_case(prediction, reference, 3, spacing, "cpc_sam"):
            p, r = prediction == score.class_id, reference == score.class_id
            assert (score.dsc, score.jc) == pytest.approx((medpy.dc(p, r), medpy.jc(p, r)), abs=1e-6)
            if p.any() and r.any():
                expected = [f(p, r, spacing) for f in (medpy.hd95, medpy.asd, medpy.assd, medpy.hd)]
                assert [getattr(score, name) for name in DISTANCES] == pytest.approx(expected, abs=1e-6)
                compared += 1
    assert compared > 150


@pytest.mark.reference
def test_aux_ol_equals_the_rules_of_its_source():
    empty = 0
    for seed in range(50):
        prediction, reference = label_maps(seed, (6, 8), num_classes=5)
        for score in score_case(prediction, reference, 5, (3.0, 2.0), "aux_ol"):  # the spacing must not matter
            p, r = prediction == score.class_id, reference == score.class_id
            diagonal = math.hypot(*p.shape)
            capped = min(monai_hd(p, r), diagonal) if p.any() or r.any() else math.nan
            assert score.hd == pytest.approx(capped, rel=1e-6, nan_ok=True)
            assert score.dsc == pytest.approx((2 * (p & r).sum() + 1) / (p.sum() + r.sum() + 1))
            empty += not (p.any() and r.any())
    assert empty > 10


@pytest.mark.reference
def test_cpc_sam_equals_the_recorded_test_of_the_authors(oracle):
    scores = score_case(oracle["F_test_pred_mean"], oracle["F_lab"], 3, (10.0, 1.5, 1.5), "cpc_sam")
    ours = [[score.dsc, score.hd95, score.asd, score.jc] for score in scores]
    np.testing.assert_allclose(ours, oracle["F_test_metrics_spacing_10_1.5_1.5"], atol=1e-6)


def nan_or(value: float) -> object:
    return pytest.approx(value, nan_ok=True)


# (convention, both empty): dsc, jc, distances; reference of 6 pixels in an image of 3 x 4 pixels, 2 x 1 mm each
@pytest.mark.parametrize(
    ("convention", "dsc", "distance"),
    [("cpc_sam", 0.0, math.nan), ("aux_ol", 1 / 7, 5.0), ("strict", 0.0, math.hypot(6, 4))],
)
@pytest.mark.parametrize("swap", [False, True], ids=["empty_prediction", "empty_reference"])
def test_one_empty_mask(convention, dsc, distance, swap):
    empty, filled = np.zeros((3, 4), np.uint8), np.zeros((3, 4), np.uint8)
    filled[:2, :3] = 1
    pair = (filled, empty) if swap else (empty, filled)
    (score,) = score_case(*pair, 1, (2.0, 1.0), convention)
    assert (score.empty_prediction, score.empty_reference) == (not swap, swap)
    assert (score.dsc, score.jc) == (pytest.approx(dsc), 0)
    assert [getattr(score, name) for name in DISTANCES] == [nan_or(distance)] * 4


@pytest.mark.parametrize(("convention", "distance"), [("cpc_sam", math.nan), ("aux_ol", math.nan), ("strict", 0.0)])
def test_two_empty_masks(convention, distance):
    empty = np.zeros((2, 3, 4), np.uint8)
    (score,) = score_case(empty, empty, 1, None, convention)
    assert score.empty_prediction
    assert score.empty_reference
    assert (score.dsc, score.jc) == (1, 1)
    assert [getattr(score, name) for name in DISTANCES] == [nan_or(distance)] * 4


def test_strict_never_drops_and_missing_is_the_worst():
    corner, opposite = np.zeros((7, 9), np.uint8), np.zeros((7, 9), np.uint8)
    corner[0, 0] = opposite[-1, -1] = 1
    worst_hit = score_case(opposite, corner, 1, (1.5, 0.5))[0]
    missed = score_case(np.zeros_like(corner), corner, 1, (1.5, 0.5))[0]
    for name in DISTANCES:
        assert getattr(worst_hit, name) < getattr(missed, name)


def test_hd95_and_units_differ_between_conventions():
    prediction, reference = np.zeros((1, 11), np.uint8), np.zeros((1, 11), np.uint8)
    prediction[0, [0, 10]] = reference[0, 0] = 1
    scores = {name: score_case(prediction, reference, 1, (1.0, 2.0), name)[0] for name in CONVENTIONS}
    assert scores["cpc_sam"].hd95 == scores["strict"].hd95 == pytest.approx(18.0)
    assert scores["aux_ol"].hd95 == pytest.approx(9.5)
    assert [distance_unit(name, (1.0, 2.0)) for name in ("cpc_sam", "aux_ol", "strict")] == ["mm", "px", "mm"]
    assert {distance_unit(name, None) for name in CONVENTIONS} == {"px"}
    assert distance_unit("cpc_sam", None, volume=True) == "voxel"


def test_classes_are_scored_apart_and_background_is_not():
    reference = np.array([[1, 1, 2, 2], [0, 0, 0, 0]], np.int64)
    prediction = np.array([[1, 1, 1, 2], [0, 0, 0, 3]], np.int64)
    scores = score_case(prediction, reference, 3)
    assert [score.class_id for score in scores] == [1, 2, 3]
    assert [score.dsc for score in scores] == pytest.approx([4 / 5, 2 / 3, 0])
    assert [score.empty_reference for score in scores] == [False, False, True]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prediction": np.zeros((4, 4), np.uint8)}, "prediction \\(4, 4\\), reference \\(4, 5\\)"),
        ({"reference": np.full((4, 5), 254, np.uint8)}, "the reference is no map of class ids(.|\n)*254"),
        ({"prediction": np.full((4, 5), -1)}, "the prediction is no map of class ids(.|\n)*-1"),
        ({"prediction": np.zeros((4, 5), np.float32)}, "found: float32"),
        ({"spacing": (1.0, 1.0, 1.0)}, "expected: 2 positive numbers"),
        ({"spacing": (0.0, 1.0)}, "expected: 2 positive numbers"),
        ({"spacing": (math.nan, 1.0)}, "expected: 2 positive numbers"),
        ({"convention": "medpy"}, "expected: cpc_sam, aux_ol, strict"),
    ],
)
def test_bad_input_is_named(change, message):
    arguments = {"prediction": np.zeros((4, 5), np.uint8), "reference": np.zeros((4, 5), np.uint8), "num_classes": 1}
    with pytest.raises(UserError, match=message):
        score_case(**{**arguments, **change}, name="case_7.png")
    assert find_convention("strict").name == "strict"


@pytest.mark.parametrize("convention", ["cpc_sam", "aux_ol", "strict"])
def test_ignored_pixels_by_hand(convention):
    """The object is 2 x 4, its right half and all that is right of it are ignored: 2 x 2 are left."""
    reference, prediction = np.zeros((2, 6, 9), np.uint8)
    reference[2:4, 1:5], reference[:, 3:] = 1, IGNORED
    prediction[2:4, 1:9] = 1
    (score,) = score_case(prediction, reference, 1, None, convention)
    assert (score.dsc, score.jc, score.hd95, score.asd, score.hd) == (1, 1, 0, 0, 0)
    prediction[2:4, :3] = 0
    prediction[2, 1] = 1
    (score,) = score_case(prediction, reference, 1, None, convention)
    smooth = convention == "aux_ol"
    assert (score.dsc, score.jc) == (pytest.approx((2 + smooth) / (1 + 4 + smooth)), 0.25)
    assert (score.hd, score.asd) == (pytest.approx(math.sqrt(2)), 0)
    prediction[2, 1] = 0  # all of it lies where nobody looks
    (score,) = score_case(prediction, reference, 1, None, convention)
    assert (score.empty_prediction, score.empty_reference) == (True, False)
    reference[reference == 1] = 0
    (score,) = score_case(prediction, reference, 1, None, convention)
    assert (score.empty_prediction, score.empty_reference, score.dsc) == (True, True, 1)


@pytest.mark.reference
@pytest.mark.parametrize("shape", [(13, 17), (4, 9, 10)])
def test_with_ignored_pixels_as_medpy_without_them(shape):
    """Overlaps on the other pixels alone; distances with the ignored ones as background in both masks."""
    spacing = (10.0, 1.5, 1.3)[-len(shape) :]
    compared = 0
    for seed in range(60):
        prediction, reference = label_maps(seed, shape, num_classes=3)
        known = np.random.default_rng((seed, 1)).random(shape) < 0.8
        known[..., :4] = False
        given = [prediction.copy(), np.where(known, reference, IGNORED)]
        for score in score_case(*given, 3, spacing, "cpc_sam"):
            p, r = (labels == score.class_id for labels in (prediction, reference))
            if not p[known].any() and not r[known].any():
                assert (score.dsc, score.jc) == (1, 1)
                continue
            expected = medpy.dc(p[known], r[known]), medpy.jc(p[known], r[known])
            assert (score.dsc, score.jc) == pytest.approx(expected, abs=1e-6)
            if p[known].any() and r[known].any():
                expected = [f(p & known, r & known, spacing) for f in (medpy.hd95, medpy.asd, medpy.assd, medpy.hd)]
                assert [getattr(score, name) for name in DISTANCES] == pytest.approx(expected, abs=1e-6)
                compared += 1
        np.testing.assert_array_equal(given[0], prediction)
    assert compared > 100
