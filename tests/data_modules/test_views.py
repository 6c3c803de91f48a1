import numpy as np
import pytest
import torch
import torch.nn.functional as F

from data_modules.views import View

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


def test_grey_makes_channels_equal():
    image = RNG.integers(0, 256, (20, 20, 3), dtype=np.uint8)
    for grey in (True, False):
        view = View(32, grey=grey)
        fitted, _ = view.fit_image(view.normalised(image))
        assert (fitted[0] == fitted[1]).all() == grey
