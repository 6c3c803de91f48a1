import numpy as np
import pytest
import torch
from PIL import Image

from lightning_samseg.online.crops import crop_logits, network_input, network_target, paste
from lightning_samseg.prompts.boxes import Box

CPU = torch.device("cpu")


def test_resizing_is_that_of_pil():
    pixels = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    crop = Box(10, 5, 110, 75)
    image = torch.from_numpy(pixels).permute(2, 0, 1).float() / 255
    found = network_input(image, torch.zeros(1, 90, 120), [crop], 32, None)
    expected = np.asarray(Image.fromarray(pixels[crop.slices]).resize((32, 32), Image.Resampling.BILINEAR))
    assert found.shape == (1, 3, 32, 32)
    np.testing.assert_allclose(found[0].permute(1, 2, 0) * 255, expected, atol=1.01)  # PIL rounds twice


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


@pytest.mark.parametrize("extra", [None, "mask"])
def test_no_prompt(extra):
    found = network_input(torch.rand(3, 20, 30), torch.zeros(0, 20, 30), [], 32, extra)
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
