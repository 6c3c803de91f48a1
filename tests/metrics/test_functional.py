"""The metric core against medpy, MONAI and numbers worked out by hand."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from medpy.metric import binary as medpy

from lightning_samseg.metrics import functional as F

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance

SIDES = st.floats(0.3, 12.0)
EXAMPLES = settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@st.composite
def pairs(draw):
    """Prediction, reference (neither empty) and a spacing or None, in 2-D or 3-D."""
    shape = draw(st.sampled_from([(9, 11), (6, 14), (1, 8), (4, 6, 7), (3, 5, 9), (1, 6, 6)]))
    if draw(st.booleans()):
        masks = [draw(arrays(bool, shape)) for _ in range(2)]  # shrinks to few voxels
    else:
        rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
        masks = [rng.random(shape) < draw(st.floats(0.02, 0.98)) for _ in range(2)]
    assume(all(mask.any() for mask in masks))
    spacing = draw(st.none() | st.tuples(*[SIDES] * len(shape)))
    return masks[0], masks[1], spacing


def crafted() -> list[tuple[str, np.ndarray, np.ndarray, tuple[float, ...] | None]]:
    """Every ordered pair of shapes that have gone wrong somewhere: borders, single voxels, holes, full masks."""
    y, x = np.mgrid[:15, :17]
    planar = {
        "disc": np.hypot(y - 7, x - 6) < 4,
        "ring": (np.hypot(y - 7, x - 8) < 6) & (np.hypot(y - 7, x - 8) > 3),
        "corner": (y == 0) & (x == 0),
        "far_corner": (y == 14) & (x == 16),
        "border": (y < 3) | (x > 14),
        "diagonal": y == x,
        "full": np.ones((15, 17), bool),
        "specks": (y % 5 == 0) & (x % 6 == 0),
    }
    cases = [(f"{a}-{b}", planar[a], planar[b], s) for a in planar for b in planar for s in (None, (0.7, 2.5))]
    z = np.arange(4)[:, None, None]
    for a in planar:
        for b in ("disc", "border", "specks"):
            cases.append((f"3d {a}-{b}", planar[a] & (z > 0), planar[b] & (z < 3), (10.0, 1.4, 1.5)))
    return cases


def check_medpy(prediction, reference, spacing):
    distances = F.surface_distances(prediction, reference, spacing)
    expected = [function(prediction, reference, spacing) for function in (medpy.hd, medpy.hd95, medpy.asd, medpy.assd)]
    assert [F.hd(distances), F.hd95(distances), F.asd(distances), F.assd(distances)] == pytest.approx(
        expected, abs=1e-6
    )
    back = F.surface_distances(reference, prediction, spacing)
    assert F.asd(back) == pytest.approx(medpy.asd(reference, prediction, spacing), abs=1e-6)
    assert F.dsc(prediction, reference) == pytest.approx(medpy.dc(prediction, reference), abs=1e-6)
    assert F.jc(prediction, reference) == pytest.approx(medpy.jc(prediction, reference), abs=1e-6)


def check_monai(prediction, reference, spacing):
    one_hot = [torch.from_numpy(mask)[None, None] for mask in (prediction, reference)]
    keywords = {"include_background": True, "spacing": spacing and list(spacing)}
    expected = [
        compute_hausdorff_distance(*one_hot, **keywords).item(),
        compute_hausdorff_distance(*one_hot, percentile=95, **keywords).item(),
        compute_average_surface_distance(*one_hot, **keywords).item(),
        compute_average_surface_distance(*one_hot, symmetric=True, **keywords).item(),
    ]
    distances = F.surface_distances(prediction, reference, spacing)
    ours = [F.hd(distances), F.hd95_directed(distances), F.asd(distances), F.assd(distances)]
    # MONAI computes in float32, and torch.quantile also the place 0.95 (n - 1) between two distances.
    rounding = 2.0**-23 * max(len(distances.pred_to_ref), len(distances.ref_to_pred)) * expected[0]
    assert ours.pop(1) == pytest.approx(expected.pop(1), rel=1e-6, abs=1e-6 + rounding)
    assert ours == pytest.approx(expected, rel=1e-6, abs=1e-6)


@pytest.mark.reference
@EXAMPLES
@given(pairs())
def test_equals_medpy_on_generated_masks(pair):
    check_medpy(*pair)


@pytest.mark.reference
@EXAMPLES
@given(pairs())
def test_equals_monai_on_generated_masks(pair):
    check_monai(*pair)


@pytest.mark.reference
def test_equals_medpy_and_monai_on_crafted_masks():
    cases = crafted()
    assert len(cases) > 100
    for name, prediction, reference, spacing in cases:
        try:
            check_medpy(prediction, reference, spacing)
            check_monai(prediction, reference, spacing)
        except AssertionError as error:
            raise AssertionError(f"{name}, spacing {spacing}") from error


def test_by_hand_one_false_positive():
    # A row of pixels: the prediction hits the reference pixel and adds one that is 10 away.
    prediction, reference = np.zeros((1, 11), bool), np.zeros((1, 11), bool)
    prediction[0, [0, 10]] = True
    reference[0, 0] = True
    distances = F.surface_distances(prediction, reference)
    assert distances.pred_to_ref.tolist() == [0, 10]
    assert distances.ref_to_pred.tolist() == [0]
    assert F.hd(distances) == 10
    assert F.hd95(distances) == pytest.approx(9.0)  # 95 % of {0, 0, 10}: position 1.9
    assert F.hd95_directed(distances) == pytest.approx(9.5)  # 95 % of {0, 10}: position 0.95
    assert F.asd(distances) == 5
    assert F.assd(distances) == pytest.approx(10 / 3)
    assert F.asd(F.surface_distances(reference, prediction)) == 0  # blind to what is missing
    assert F.dsc(prediction, reference) == pytest.approx(2 / 3)
    assert F.dsc(prediction, reference, smooth=1) == pytest.approx(3 / 4)
    assert F.jc(prediction, reference) == pytest.approx(1 / 2)


def test_by_hand_spacing_and_surface():
    prediction, reference = np.zeros((4, 5, 6), bool), np.zeros((4, 5, 6), bool)
    prediction[0, 0, 0] = reference[2, 3, 4] = True
    distances = F.surface_distances(prediction, reference, (10, 2, 1))
    assert F.hd(distances) == pytest.approx((20**2 + 6**2 + 4**2) ** 0.5)
    # The centre of a 3 x 3 block is interior, also when the block fills the array: its sides lie at the border.
    block = np.zeros((5, 5), bool)
    block[1:4, 1:4] = True
    assert F.surface_distances(block, block).pred_to_ref.shape == (8,)
    assert F.surface_distances(np.ones((3, 3), bool), np.ones((3, 3), bool)).pred_to_ref.shape == (8,)


def test_overlap_of_empty_masks():
    empty, full = np.zeros((3, 4), bool), np.ones((3, 4), bool)
    assert (F.dsc(empty, empty), F.jc(empty, empty)) == (1, 1)
    assert (F.dsc(empty, full), F.jc(full, empty)) == (0, 0)
    assert F.dsc(empty, full, smooth=1) == pytest.approx(1 / 13)


def test_surface_distances_refuse_empty_masks_and_unequal_shapes():
    with pytest.raises(ValueError, match="foreground voxel in both"):
        F.surface_distances(np.zeros((3, 3), bool), np.ones((3, 3), bool))
    with pytest.raises(ValueError, match="foreground voxel in both"):
        F.surface_distances(np.ones((3, 3), bool), np.zeros((3, 3), bool))
    with pytest.raises(ValueError, match=r"\(3, 3\) and \(3, 4\)"):
        F.surface_distances(np.ones((3, 3), bool), np.ones((3, 4), bool))
