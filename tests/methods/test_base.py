from typing import Any

import numpy as np
import pytest
import torch

from lightning_samseg.losses.dice_ce import dice_ce_loss
from lightning_samseg.methods.base import restore_size
from lightning_samseg.methods.supervised import SAMed, UNet, shrink_labels
from lightning_samseg.types import IGNORED, Case


def probabilities(labels: np.ndarray, size: int) -> torch.Tensor:
    """One-hot probabilities of a label map in the corner of a square frame."""
    frame = torch.zeros(2, size, size)
    frame[0] = 1
    height, width = labels.shape
    for k in (0, 1):
        frame[k, :height, :width] = torch.from_numpy(labels == k).float()
    return frame


@pytest.mark.parametrize("how", ["probabilities", "labels"])
def test_padding_is_cut_off_before_the_prediction_is_enlarged(how: str) -> None:
    labels = np.zeros((8, 16), np.uint8)
    labels[2:6, 4:12] = 1
    case = Case("a", "a.png", (32, 64), (8, 16))
    restored = restore_size(probabilities(labels, 16), case, how)  # type: ignore[arg-type]
    assert restored.dtype == np.uint8
    enlarged = labels.repeat(4, 0).repeat(4, 1)
    # Interpolated probabilities round the corners off; labels do not.
    assert (restored != enlarged).mean() <= (0.005 if how == "probabilities" else 0)


@pytest.mark.parametrize("how", ["probabilities", "labels"])
def test_only_labels_go_to_the_host(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte per pixel of an image in evaluation, not the numbers of every class."""
    copied: list[tuple[torch.dtype, tuple[int, ...]]] = []
    to_host = torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda x: copied.append((x.dtype, tuple(x.shape))) or to_host(x))
    found = torch.rand(5, 16, 16, generator=torch.Generator().manual_seed(0))
    labels = restore_size(found, Case("a", "a.png", (32, 64), (8, 16)), how)  # type: ignore[arg-type]
    assert copied == [(torch.uint8, (8, 16) if how == "labels" else (32, 64))]
    if how == "labels":
        expected = found.numpy().argmax(0)[:8].astype(np.uint8)
        np.testing.assert_array_equal(labels[2::4, 2::4], expected)


def test_corner_aligned_labels_are_scipys() -> None:
    from scipy.ndimage import zoom

    labels = (np.random.default_rng(0).random((16, 16)) > 0.5).astype(np.uint8)
    case = Case("a", "a.png", (40, 28), (16, 16), geometry="corner_aligned")
    expected = zoom(labels, (40 / 16, 28 / 16), order=0)
    np.testing.assert_array_equal(restore_size(probabilities(labels, 16), case, "labels"), expected)


def test_shrink_labels_keeps_class_ids() -> None:
    mask = torch.tensor([[[0, 0, 3, 3], [0, 0, 3, 3], [2, 2, 1, 1], [2, 2, 1, 1]]])
    assert shrink_labels(mask, 2).tolist() == [[[0, 3], [2, 1]]]
    assert shrink_labels(mask, 4) is mask


def test_samed_trains_nothing_that_gets_no_gradient() -> None:
    model = SAMed(sam={"backbone": "tiny"}, image_size=32, num_classes=2)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    batch = {"image": torch.rand(2, 3, 32, 32), "mask": torch.randint(0, 3, (2, 32, 32))}
    model.log = lambda *_, **__: None  # type: ignore[method-assign]
    model.training_step(batch, 0).backward()  # type: ignore[arg-type]
    without = [n for n, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert without == []


@pytest.mark.parametrize("kind", [SAMed, UNet])
def test_ignored_pixels_train_no_baseline(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The upper half is not known: its pixels have no gradient of their own, as if the logits ended below it."""
    monkeypatch.setattr(kind, "log", lambda *_, **__: None)
    torch.manual_seed(0)
    method = kind(num_classes=2, image_size=32, **({"sam": {"backbone": "tiny"}} if kind is SAMed else {}))
    image, mask = torch.rand(2, 3, 32, 32), torch.randint(0, 3, (2, 32, 32))
    mask[:, :16] = IGNORED
    method.eval()
    loss = method.training_step({"image": image, "mask": mask}, 0)
    logits = method.sam.decode(method.sam.encode(image), 0) if kind is SAMed else method(image)
    size = logits.shape[-1]
    left = logits[:, :, size // 2 :], shrink_labels(mask, size)[:, size // 2 :]
    torch.testing.assert_close(loss, dice_ce_loss(*left, method.supervised_dice), rtol=1e-5, atol=1e-6)
    assert method.training_step({"image": image, "mask": torch.full_like(mask, IGNORED)}, 0).item() == 0
