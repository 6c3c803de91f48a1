import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from lightning_samseg.losses.binary import UNKNOWN
from lightning_samseg.online.crop_network import crop_logits, network_input, network_target
from lightning_samseg.online.predictions import paste
from lightning_samseg.prompts.boxes import Box
from lightning_samseg.types import IGNORED

CPU = torch.device("cpu")


def test_resizing_is_that_of_pil():
    pixels = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    crop = Box(10, 5, 110, 75)
    image = torch.from_numpy(pixels).permute(2, 0, 1).float() / 255
    found = network_input(image, torch.zeros(1, 90, 120), [crop], 32, None)
    expected = np.asarray(Image.fromarray(pixels[crop.slices]).resize((32, 32), Image.Resampling.BILINEAR))
    assert found.shape == (1, 3, 32, 32)
    np.testing.assert_allclose(found[0].permute(1, 2, 0) * 255, expected, atol=1.01)  # PIL rounds twice


def random_crops(count, size):
    """Crops with ragged masks, of all shapes, smaller and larger than the network's input; the last is as large."""
    for number in range(count):
        rng = np.random.default_rng(number)
        height, width = (size, size) if number == count - 1 else rng.integers(2, 3 * size, 2).tolist()
        pixels = rng.integers(0, 256, (height + 7, width + 5, 3), dtype=np.uint8)
        rows, columns = np.ogrid[: height + 7, : width + 5]
        wave = np.sin(rows / rng.uniform(2, 20)) + np.cos(columns / rng.uniform(2, 20)) + rng.normal(0, 0.3)
        crop = Box(3, 4, 3 + width, 4 + height)
        yield pixels, torch.tensor(wave, dtype=torch.float32).unsqueeze(0), crop


@pytest.mark.parametrize("extra", [None, "mask"])
def test_crops_as_pil_pictures_are_those_of_the_authors_pipeline(extra):
    """``ToPILImage``, ``Resize``, ``ToTensor`` on uint8 RGB, or on RGB with SAM's mask as 0 and 255."""
    pipeline = transforms.Compose([transforms.ToPILImage(), transforms.Resize((32, 32)), transforms.ToTensor()])
    for pixels, logits, crop in random_crops(40, 32):
        image = torch.from_numpy(pixels).permute(2, 0, 1).float() / 255
        found = network_input(image, logits, [crop], 32, extra, "pil")
        seen = pixels[crop.slices]
        if extra is not None:
            mask = (logits[0][crop.slices].sigmoid() > 0.5).numpy().astype(np.uint8) * 255
            seen = np.concatenate([seen, mask[..., None]], axis=2)
        assert torch.equal(found[0], pipeline(seen))


def test_pil_premultiplies_so_that_the_network_sees_black_outside_of_sams_mask():
    dark = kept = 0
    for pixels, logits, crop in random_crops(20, 32):
        image = torch.from_numpy(pixels).permute(2, 0, 1).float() / 255
        (found,) = network_input(image, logits, [crop], 32, "mask", "pil")
        (plain,) = network_input(image, logits, [crop], 32, "mask")
        if (crop.width, crop.height) == (32, 32):  # nothing is resized, and RGB stays
            assert torch.equal(found, plain)
            continue
        assert not found[:3, found[3] == 0].any()
        torch.testing.assert_close(found[3], plain[3], atol=1.01 / 255, rtol=0)
        inside = (image * (logits > 0))[:, crop.slices[0], crop.slices[1]].unsqueeze(0)
        expected = torch.nn.functional.interpolate(inside, (32, 32), mode="bilinear", antialias=True)[0]
        torch.testing.assert_close(found[:3] * found[3], expected, atol=2.5 / 255, rtol=0)  # PIL rounds four times
        dark += int((found[3] == 0).sum())
        kept += float(plain[:3, found[3] == 0].sum())
    assert dark > 2000
    assert kept / (3 * dark) == pytest.approx(0.5, abs=0.05)  # of noise in 0..1


def test_fourth_channel():
    image = torch.rand(3, 32, 64)
    logits = torch.linspace(-3, 3, 32 * 64).view(1, 32, 64)
    crop = Box(16, 0, 48, 32)  # at the network's size: no resizing
    inside = logits[0, :, 16:48]
    expected = {"mask": (inside > 0).float(), "probability": inside.sigmoid(), "logits": inside}
    for kind, channel in expected.items():
        found = network_input(image, logits, [crop], 32, kind)
        torch.testing.assert_close(found[0, :3], image[:, :, 16:48])
        torch.testing.assert_close(found[0, 3], channel)


@pytest.mark.parametrize("resize", ["tensor", "pil"])
@pytest.mark.parametrize("extra", [None, "mask"])
def test_no_prompt(extra, resize):
    found = network_input(torch.rand(3, 20, 30), torch.zeros(0, 20, 30), [], 32, extra, resize)
    assert found.shape == (0, 3 if extra is None else 4, 32, 32)


def test_targets_are_binary_and_keep_their_area():
    mask = torch.zeros(90, 70, dtype=torch.bool)
    mask[20:60, 15:45] = True
    target = network_target(mask, 32)
    assert target.shape == (1, 32, 32)
    assert set(target.unique().tolist()) == {0, 1}
    assert target.mean().item() == pytest.approx(mask.float().mean().item(), abs=0.02)
    assert network_target(torch.ones(1, 1, dtype=torch.bool), 32).min() == 1


def test_logits_return_to_the_crops_size():
    logits = torch.rand(1, 32, 32)
    assert torch.equal(crop_logits(logits, Box(4, 4, 36, 36)), logits[0])
    assert crop_logits(logits, Box(3, 4, 4, 5)).shape == (1, 1)
    ramp = torch.arange(32.0).expand(1, 32, 32)
    enlarged = crop_logits(
        ramp, Box(0, 0, 64, 7)
    )  # pixel centres stay where they are: column x is at (x + 0.5) / 2 - 0.5
    torch.testing.assert_close(enlarged, ((torch.arange(64.0) + 0.5) / 2 - 0.5).clamp(0, 31).expand(7, 64))


def test_union_of_crops_and_background_outside():
    crops = [Box(0, 0, 4, 4), Box(2, 2, 6, 5)]
    pieces = [torch.full((4, 4), -1.0), torch.full((3, 4), -1.0)]
    pieces[0][3, 3] = 0.1  # background in the other crop
    pieces[1][0, 3] = 5
    pieces[1][2, 2] = 0  # a probability of exactly one half is background
    mask = paste(pieces, crops, (8, 9), CPU)
    assert mask.nonzero().tolist() == [[2, 5], [3, 3]]
    assert not paste([], [], (8, 9), CPU).any()


def test_targets_of_ignored_pixels_are_unknown():
    """A mask of 64 x 64 at half its size: each target pixel stands for four, of which the known ones decide."""
    mask = torch.zeros(64, 64, dtype=torch.uint8)
    mask[:, 32:] = 1
    mask[:32] = IGNORED
    mask[40:42, 8:10] = torch.tensor([[IGNORED, 1], [1, 0]])
    target = network_target(mask, 32)[0]
    assert (target[:15] == UNKNOWN).all()
    assert (target[17:, :3] == 0).all()
    assert (target[17:, 17:] == 1).all()
    whole = mask.clone()
    whole[whole == IGNORED] = 0
    changed = network_target(whole, 32)[0] != target
    assert not changed[24:].any()  # nothing ignored nearby
    assert set(target.unique().tolist()) == {UNKNOWN, 0, 1}
    assert (network_target(torch.full((7, 9), IGNORED, dtype=torch.uint8), 32) == UNKNOWN).all()
    same = torch.tensor([[1, IGNORED], [IGNORED, 1]], dtype=torch.uint8)
    assert (network_target(same.repeat_interleave(16, 0).repeat_interleave(16, 1), 32)[0, 2:14, 2:14] == 1).all()
