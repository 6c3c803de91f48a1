"""Both geometries against independent implementations, and against what the authors' code recorded."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import rotate, zoom

from lightning_samseg.io.geometry import resize_image, resize_labels

SIZES = [((256, 216), (512, 512)), ((154, 224), (64, 80)), ((33, 47), (16, 20)), ((40, 40), (40, 40)), ((1, 5), (7, 9))]


def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize(("size", "target"), SIZES)
def test_corner_aligned_image_equals_scipy_zoom(size, target):
    image = rng().random(size, dtype=np.float32)
    expected = zoom(image, (target[0] / size[0], target[1] / size[1]), order=3)
    resized = resize_image(image, target, "corner_aligned")
    assert (resized.shape, resized.dtype) == (target, np.float32)
    np.testing.assert_allclose(resized, expected, atol=1e-5)
    colour = resize_image(np.stack([image, image * 2, image - 1], -1), target, "corner_aligned")
    np.testing.assert_allclose(colour, np.stack([expected, expected * 2, expected - 1], -1), atol=1e-5)


@pytest.mark.parametrize(("size", "target"), [*SIZES, ((512, 512), (224, 184)), ((512, 512), (256, 216))])
def test_corner_aligned_labels_equal_scipy_zoom(size, target):
    for source, wanted in ((size, target), (target, size)):
        labels = rng().integers(0, 4, source, dtype=np.uint8)
        expected = zoom(labels, (wanted[0] / source[0], wanted[1] / source[1]), order=0)
        resized = resize_labels(labels, wanted, "corner_aligned")
        assert resized.dtype == np.uint8
        np.testing.assert_array_equal(resized, expected)


def test_corner_pixels_stay_at_the_corners():
    """By hand: 5 samples over 3 pixels lie at 0, 0.5, 1, 1.5, 2; with half pixels the outer borders agree."""
    ramp = np.tile(np.array([0.0, 10, 20], np.float32), (3, 1))
    np.testing.assert_allclose(resize_image(ramp, (3, 3), "corner_aligned"), ramp, atol=1e-5)
    corners = resize_image(ramp, (5, 5), "corner_aligned")
    np.testing.assert_allclose(corners[:, [0, 2, 4]], np.tile([0, 10, 20], (5, 1)), atol=1e-5)
    assert corners[0, 1] + corners[0, 3] == pytest.approx(20, abs=1e-4)
    labels = np.array([[1, 2, 3]], np.uint8)
    assert resize_labels(labels, (1, 6), "half_pixel").tolist() == [[1, 1, 2, 2, 3, 3]]
    assert resize_labels(labels, (1, 5), "corner_aligned")[0, [0, 2, 4]].tolist() == [1, 2, 3]


def test_half_pixel_equals_torch():
    image, labels = rng().random((37, 53), dtype=np.float32), rng().integers(0, 4, (37, 53), dtype=np.uint8)
    expected = F.interpolate(torch.from_numpy(image)[None, None], (64, 48), mode="bicubic")[0, 0]
    np.testing.assert_allclose(resize_image(image, (64, 48)), expected, atol=2e-5)
    nearest = F.interpolate(torch.from_numpy(labels)[None, None].float(), (64, 48), mode="nearest-exact")[0, 0]
    np.testing.assert_array_equal(resize_labels(labels, (64, 48)), nearest)


def test_predictions_return_to_the_original_size(oracle):
    volumes = oracle["F_test_probs_mean"].argmax(1).astype(np.uint8), oracle["F_test_pred_mean"]
    for labels, expected in zip(*volumes, strict=True):
        np.testing.assert_array_equal(resize_labels(labels, expected.shape, "corner_aligned"), expected)


def test_training_samples(oracle):
    """Each recorded sample is one of the authors' augmentations followed by our resizing, image and label alike."""
    moves = [lambda array: array]
    moves += [lambda a, k=k, axis=axis: np.flip(np.rot90(a, k), axis) for k in range(4) for axis in (0, 1)]
    moves += [lambda a, angle=angle: rotate(a, angle, order=0, reshape=False) for angle in range(-20, 20)]
    fitted = [
        (
            resize_image(np.ascontiguousarray(move(oracle["G_image"])), (64, 64), "corner_aligned"),
            resize_labels(np.ascontiguousarray(move(oracle["G_label"])), (64, 64), "corner_aligned"),
        )
        for move in moves
    ]
    for image, label in zip(oracle["G_out_image"], oracle["G_out_label"], strict=True):
        error, place = min((np.abs(image - ours).max(), place) for place, (ours, _) in enumerate(fitted))
        assert error < 1e-5
        np.testing.assert_array_equal(label, fitted[place][1])
