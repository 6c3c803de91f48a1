"""Strong views against Pillow and torchvision as recorded, on one picture of 8 bits."""

import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_samseg.semi.strong import adjust_brightness, adjust_contrast, gaussian_blur, strong_view
from tests.reference.ssl_oracle import SslOracle, image


@pytest.fixture(scope="module")
def oracle() -> SslOracle:
    return SslOracle()


@pytest.fixture
def picture() -> Tensor:
    return (image("uni.aug", 1) * 255).floor() / 255


def each(value: float, count: int = 1) -> Tensor:
    return torch.full((count, 1, 1, 1), value, dtype=torch.float64)


@pytest.mark.parametrize("factor", [0.6, 1.4])
def test_brightness_and_contrast(oracle: SslOracle, picture: Tensor, factor: float) -> None:
    for name, adjust in (("brightness", adjust_brightness), ("contrast", adjust_contrast)):
        found = adjust(picture, each(factor))[0, 0].numpy() * 255
        assert np.abs(found - oracle[f"unimatch.aug.{name}_{factor}"]).max() < 1.5, name  # Pillow rounds


@pytest.mark.parametrize("sigma", [0.5, 1.5])
def test_blur(oracle: SslOracle, picture: Tensor, sigma: float) -> None:
    """Pillow's is three box filters, close to a Gaussian."""
    recorded = oracle[f"unimatch.aug.blur_{sigma}"].astype(float)
    found = gaussian_blur(picture, torch.tensor([sigma], dtype=torch.float64))[0, 0].numpy() * 255
    assert np.abs(found - recorded).mean() < 1.5
    assert np.abs(found - recorded).mean() < 0.15 * np.abs(picture[0, 0].numpy() * 255 - recorded).mean()


def test_blur_against_scipy(picture: Tensor) -> None:
    from scipy.ndimage import gaussian_filter

    sigmas = torch.tensor([0.3, 1.0, 2.0], dtype=torch.float64)
    found = gaussian_blur(picture.expand(3, 2, -1, -1), sigmas)
    for i, sigma in enumerate(sigmas.tolist()):
        expected = gaussian_filter(picture[0, 0].numpy(), sigma, mode="nearest", radius=8)
        for channel in range(2):
            np.testing.assert_allclose(found[i, channel].numpy(), expected, atol=1e-12)


def test_contrast_of_colours_is_about_the_grey_mean() -> None:
    from torchvision.transforms.v2.functional import adjust_contrast as reference

    colours = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    factor = torch.full((1, 1, 1, 1), 1.3)
    torch.testing.assert_close(adjust_contrast(colours, factor), reference(colours, 1.3), atol=1e-3, rtol=0)


def test_every_image_has_draws_of_its_own_that_repeat(picture: Tensor) -> None:
    many = picture.float().expand(64, 1, -1, -1)

    def view(seed: int) -> Tensor:
        return strong_view(many, torch.Generator().manual_seed(seed))

    first = view(0)
    assert torch.equal(first, view(0))
    assert not torch.equal(first, view(1))
    assert first.min() >= 0
    assert first.max() <= 1 + 1e-6
    changed = (first != many).flatten(1).any(1).float().mean().item()
    assert changed == pytest.approx(1 - 0.2 * 0.5, abs=0.12)  # neither jittered nor blurred: one in ten
    assert len({tuple(each.flatten().tolist()) for each in first}) > 50
