import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lightning_samseg.errors import UserError
from lightning_samseg.transforms import View, prepare_image
from lightning_samseg.types import IGNORED

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("size", [(37, 53), (64, 64), (150, 90)])
@pytest.mark.parametrize("channels", [1, 3])
def test_image_is_resized_like_torch_bicubic(size, channels):
    image = RNG.random((*size, channels), dtype=np.float32)
    fitted, content = View(64).fit_image(image[..., 0] if channels == 1 else image)
    reference = F.interpolate(torch.from_numpy(image).permute(2, 0, 1)[None], (64, 64), mode="bicubic")[0]
    assert fitted.dtype == np.float32
    assert fitted.shape == (3, 64, 64)
    assert content == (64, 64)
    np.testing.assert_allclose(fitted, reference.expand(3, 64, 64), atol=2e-5)


@pytest.mark.parametrize("size", [(37, 53), (64, 64), (150, 90)])
def test_mask_is_resized_like_torch_nearest_exact(size):
    mask = RNG.integers(0, 4, size, dtype=np.uint8)
    fitted = View(64).fit_mask(mask)
    reference = F.interpolate(torch.from_numpy(mask)[None, None].float(), (64, 64), mode="nearest-exact")[0, 0]
    assert fitted.dtype == np.uint8
    np.testing.assert_array_equal(fitted, reference)


def test_longest_side_keeps_the_aspect_and_pads():
    view = View(64, resize="longest_side")
    image = np.ones((50, 100), np.float32)
    fitted, content = view.fit_image(image)
    assert content == (32, 64)
    np.testing.assert_allclose(fitted[:, :32], 1)
    assert not fitted[:, 32:].any()
    mask = view.fit_mask(np.full((100, 50), 2, np.uint8))
    assert (mask[:, :32] == 2).all()
    assert not mask[:, 32:].any()
    assert view.content_size((1, 1000)) == (1, 64)


def test_image_and_mask_stay_together():
    """Half-pixel geometry for both: a bright square and its mask keep their centre of mass."""
    mask = np.zeros((90, 130), np.uint8)
    mask[20:50, 70:110] = 1
    for view in (View(64), View(64, resize="longest_side"), View(256)):
        image, fitted = view.fit_image(mask.astype(np.float32))[0][0], view.fit_mask(mask)
        centre = [np.average(np.indices(image.shape)[axis], weights=np.clip(image, 0, 1)) for axis in (0, 1)]
        np.testing.assert_allclose([axis.mean() for axis in np.nonzero(fitted)], centre, atol=0.5)  # the nearest pixel


def test_minmax():
    image = np.array([[10, 20], [30, 60]], np.uint8)
    np.testing.assert_allclose(View(16).normalised(image), [[0, 0.2], [0.4, 1]], atol=1e-6)
    deep = np.array([[1000, 2000], [3000, 6000]], np.uint16)
    np.testing.assert_allclose(View(16).normalised(deep), [[0, 0.2], [0.4, 1]], atol=1e-6)


@pytest.mark.parametrize("normalise", ["minmax", "percentile", "sam"])
@pytest.mark.parametrize(
    "wide", [lambda v: 1e9 + v / 255, lambda v: (v.astype(np.int64) - 2**31).astype(np.int32), lambda v: v * 1e300]
)
def test_huge_values_keep_their_precision(normalise, wide):
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    view = View(16, normalise=normalise)
    np.testing.assert_allclose(view.normalised(wide(ramp)), view.normalised(ramp), atol=2e-5)
    edge = np.array([[-3e38, 3e38]], np.float32)
    assert np.ptp(view.normalised(edge)[0, :2]) > 0.9


def test_sam():
    image = RNG.integers(0, 256, (5, 6, 3), dtype=np.uint8)
    mean, std = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])
    normalised = View(16, normalise="sam").normalised(image)
    np.testing.assert_allclose(normalised, (image - mean) / std, rtol=1e-5, atol=1e-5)
    grey = View(16, normalise="sam").normalised(image[..., 0])
    np.testing.assert_allclose(grey, (image[..., :1] - mean) / std, rtol=1e-5, atol=1e-5)
    deep = np.array([[500, 1000]], np.uint16)  # stretched to 0, 255 first
    expected = (np.array([0, 255])[:, None] - mean) / std
    np.testing.assert_allclose(View(16, normalise="sam").normalised(deep)[0], expected, rtol=1e-5)


def test_percentile_is_robust_against_single_pixels():
    image = np.linspace(0, 1000, 100 * 100).reshape(100, 100).astype(np.float32)
    image[0, 0], image[-1, -1] = -1e6, 1e6
    normalised = View(16, normalise="percentile").normalised(image)
    low, high = np.percentile(image, (0.5, 99.5))
    np.testing.assert_allclose(normalised, np.clip((image - low) / (high - low), 0, 1), atol=1e-5)
    assert (normalised.min(), normalised.max()) == (0, 1)


@pytest.mark.parametrize("normalise", ["minmax", "percentile", "sam"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_constant_image_gives_no_nan(normalise, dtype):
    assert np.isfinite(View(16, normalise=normalise).normalised(np.full((4, 4), 7, dtype))).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_grey_makes_channels_equal(dtype):
    image = RNG.integers(0, 256, (20, 20, 3), dtype=np.uint8)
    for grey in (True, False):
        view = View(32, grey=grey)
        fitted, _ = view.fit_image(view.normalised(image.astype(dtype)))
        assert (fitted[0] == fitted[1]).all() == grey
        np.testing.assert_allclose(fitted, view.fit_image(view.normalised(image))[0], atol=0.02)  # luma is rounded


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(20, 30), (20, 30, 3)])
@pytest.mark.parametrize("normalise", ["minmax", "percentile"])
def test_one_picture_of_any_kind(dtype, shape, normalise):
    picture = (RNG.random(shape) * (255 if dtype == np.uint8 else 4000)).astype(dtype)
    view = View(32, "longest_side", normalise)
    frame = prepare_image(picture, view, "case 1", source="a.png", spacing=(1.5, 1.5), slice_index=2, num_slices=5)
    assert (frame.image.shape, frame.image.dtype, frame.mask) == ((3, 32, 32), np.float32, None)
    assert frame.case == ("case 1", "a.png", (20, 30), (21, 32), (1.5, 1.5), 2, 5, "half_pixel")
    low, high = (0, 100) if normalise == "minmax" else (0.5, 99.5)
    low, high = np.percentile(picture.astype(np.float64), (low, high))
    expected, _ = view.fit_image(np.clip((picture - low) / (high - low), 0, 1).astype(np.float32))
    np.testing.assert_allclose(frame.image, expected, atol=1e-4)
    assert view.channels(picture) == len({channel.tobytes() for channel in frame.image})


def test_augmentation_comes_before_resizing_and_moves_the_label_alike():
    picture, label = RNG.integers(0, 256, (20, 30), dtype=np.uint8), RNG.integers(0, 3, (20, 30), dtype=np.uint8)
    frame = prepare_image(picture, View(32), label=label, move=lambda image, mask: (image[::-1], mask[::-1]))
    turned = prepare_image(picture[::-1], View(32), label=label[::-1])
    np.testing.assert_array_equal(frame.image, turned.image)
    np.testing.assert_array_equal(frame.mask, turned.mask)
    assert not np.array_equal(frame.mask, prepare_image(picture, View(32), label=label).mask)


@pytest.mark.parametrize("shape", [(20,), (20, 30, 4), (20, 30, 1), (2, 20, 30, 3), (0, 30)])
def test_no_picture(shape):
    with pytest.raises(UserError, match=r"x.png cannot be brought to the network's size(.|\n)*found: shape"):
        prepare_image(np.zeros(shape, np.uint8), View(32), source="x.png")


def test_the_view_of_a_training_comes_from_its_checkpoint():
    view = View(48, "longest_side", "percentile", True, "corner_aligned")
    stored = {"image_size": 48, "resize": "longest_side", "normalise": "percentile", "grey": True}
    assert View.stored_in({**stored, "geometry": "corner_aligned", "root": "data"}) == view
    with pytest.raises(UserError, match=r"does not say how(.|\n)*found: no geometry"):
        View.stored_in(stored)


@pytest.mark.parametrize("geometry", ["half_pixel", "corner_aligned"])
def test_ignored_pixels_stay_and_padding_adds_none(geometry):
    mask = np.zeros((30, 60), np.uint8)
    mask[:, 30:] = IGNORED
    found = View(32, "longest_side", geometry=geometry).fit_mask(mask)
    assert (found[:16, 17:] == IGNORED).all()
    assert not found[:, :15].any()
    assert not found[16:].any()
    assert set(np.unique(found)) == {0, IGNORED}
