from collections import Counter

import numpy as np
import pytest
import scipy.ndimage
import torch
from torch.nn import functional

from data_modules.augment import CpcSamAugmentation, _SmallRotation

IMAGE = (1 + np.arange(40 * 56, dtype=np.float32)).reshape(40, 56)  # every pixel is unique and none is 0


@pytest.fixture(scope="module")
def augmentation():
    return CpcSamAugmentation()


def flips(image):
    return {(k, axis): np.flip(np.rot90(image, k), axis) for k in range(4) for axis in (0, 1)}


def rotated(image, angle):
    return scipy.ndimage.rotate(image, angle, order=0, reshape=False)


def branch_of(moved):
    if np.array_equal(moved, IMAGE):
        return "none"
    found = [key for key, flipped in flips(IMAGE).items() if np.array_equal(moved, flipped)]
    return found[0] if found else "rotation"


def test_branches_come_as_often_as_published(augmentation):
    count = 2000
    branches = Counter(branch_of(augmentation(IMAGE, None, seed)[0]) for seed in range(count))
    deviation = 4 * np.sqrt(count * 0.25 * 0.75)
    assert abs(branches["none"] - count / 4) < deviation
    assert abs(branches["rotation"] - count / 4) < deviation
    turned = [branches[key] for key in flips(IMAGE) if key in branches]  # each arises from two (k, axis)
    assert len(turned) == 4
    for times in turned:
        assert abs(times - count / 8) < 4 * np.sqrt(count / 8 * 7 / 8)


def test_angles_are_all_integers_from_minus_20_to_19_and_as_scipy_turns_them():
    rotation = _SmallRotation(p=1.0)
    angles = Counter()
    for seed in range(800):
        rotation.set_random_seed(seed)
        angles[rotation.get_params()["angle"]] += 1
    assert set(angles) == set(range(-20, 20))
    assert max(angles.values()) < 50  # 20 expected
    for angle in (-20, -3, 0, 7, 19):
        moved = rotation.apply(IMAGE, angle=angle)
        assert (moved == rotated(IMAGE, angle)).mean() > 0.97  # ties of nearest neighbour may fall either way
        assert moved.shape == IMAGE.shape
        assert angle == 0 or (moved == 0).any()


def test_image_and_mask_move_together_and_masks_keep_their_values(augmentation):
    mask = (IMAGE.astype(int) * 7 % 5).astype(np.uint8)
    seen = set()
    for seed in range(60):
        image, moved = augmentation(IMAGE, mask, seed)
        expected = np.where(image == 0, 0, image.astype(int) * 7 % 5)  # unique grey levels tell where a pixel came from
        np.testing.assert_array_equal(moved, expected)
        assert moved.dtype == np.uint8
        assert image.dtype == np.float32
        seen.add(branch_of(image))
    assert len(seen) == 6


def test_only_the_seed_matters(augmentation):
    first = [augmentation(IMAGE, None, seed)[0] for seed in range(30)]
    np.random.seed(1)
    other = CpcSamAugmentation()
    for seed in reversed(range(30)):
        np.testing.assert_array_equal(other(IMAGE, None, seed)[0], first[seed])


def test_colour_images(augmentation):
    image = np.dstack([IMAGE, IMAGE + 5000, IMAGE + 10000])
    for seed in range(12):
        moved, _ = augmentation(image, None, seed)
        np.testing.assert_array_equal(moved[..., 0], augmentation(IMAGE, None, seed)[0])


@pytest.mark.reference
def test_every_recorded_sample_is_one_of_our_transforms(oracle):
    """The authors' 12 augmented samples: each is one of our branches followed by scipy's zoom."""
    image, label = oracle["G_image"], oracle["G_label"]
    rotation = _SmallRotation(p=1.0)
    ways = {"none": lambda a: a}
    ways |= {f"turn {k} {axis}": lambda a, k=k, axis=axis: flips(a)[k, axis] for k in range(4) for axis in (0, 1)}
    ways |= {f"angle {angle}": lambda a, angle=angle: rotation.apply(a, angle=angle) for angle in range(-20, 20)}
    candidates = {name: zoom(way(np.ascontiguousarray(label)), 0) for name, way in ways.items()}
    kinds = set()
    for output, target in zip(oracle["G_out_image"], oracle["G_out_label"], strict=True):
        agreement = {name: (candidate == target).mean() for name, candidate in candidates.items()}
        best = max(agreement, key=agreement.get)
        assert agreement[best] > 0.995
        difference = np.abs(zoom(ways[best](np.ascontiguousarray(image)), 3) - output)
        assert np.median(difference) < 1e-5
        kinds.add(best.split()[0])
    assert kinds == {"none", "turn", "angle"}


def zoom(image, order):
    return scipy.ndimage.zoom(image, (64 / image.shape[0], 64 / image.shape[1]), order=order)


@pytest.mark.parametrize("seed", range(16))
def test_motion_says_where_pixels_come_from(augmentation, seed):
    moved, _ = augmentation(IMAGE, None, seed)
    motion = torch.from_numpy(augmentation.motion(seed, IMAGE.shape))
    grid = functional.affine_grid(motion[None], [1, 1, *moved.shape], align_corners=False)
    again = functional.grid_sample(torch.from_numpy(IMAGE)[None, None], grid, mode="nearest", align_corners=False)
    assert (again[0, 0].numpy() == moved).mean() > 0.999  # a position between two pixels may be rounded to either


def test_ignored_pixels_move_with_their_image_and_none_are_made(augmentation):
    """What is rotated into view is background, as in the published code."""
    mask = np.where(np.median(IMAGE) < IMAGE, 255, 1).astype(np.uint8)
    for seed in range(60):
        image, moved = augmentation(IMAGE, mask, seed)
        expected = np.where(image == 0, 0, np.where(image > np.median(IMAGE), 255, 1))
        np.testing.assert_array_equal(moved, expected)
