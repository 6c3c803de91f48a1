"""A frozen SAM asked about augmented images: prompts go back to the image, masks come forth, the rest is cached."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from data_modules.augment import CpcSamAugmentation
from lightning_samseg.models.frozen_sam import FrozenSam
from lightning_samseg.semi.sam_teacher import SamTeacher
from lightning_samseg.transforms import View
from lightning_samseg.types import Case

SIDE = 48
HEIGHT, WIDTH = 60, 90
EYE = torch.eye(2, 3)


@pytest.fixture(scope="module")
def sam() -> FrozenSam:
    return FrozenSam("tiny")


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.kron(rng.integers(0, 255, (6, 9, 3)), np.ones((10, 10, 1))).astype(np.uint8)


def case(name: str = "a") -> Case:
    return Case(name, name, (HEIGHT, WIDTH), (SIDE, SIDE))


class Reader:
    def __init__(self, picture: np.ndarray) -> None:
        self.picture, self.read = picture, 0

    def __call__(self, _: Case) -> np.ndarray:
        self.read += 1
        return self.picture


class Discs(SamTeacher):
    """Answers a prompt by a disc around its centre, in SAM's frame."""

    def _answer(self, found: Any, *rest: Any) -> tuple[Tensor, Tensor]:
        points: list[Tensor] = []

        def logits(_: Tensor, at: Tensor | None = None, __: Any = None, boxes: Tensor | None = None) -> Tensor:
            centres = at[:, 0] if at is not None else (boxes[:, :2] + boxes[:, 2:]) / 2  # type: ignore[index]
            points.append(centres)
            size = self.sam.image_size
            rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
            return 6.0 - ((columns - centres[:, :1, None]) ** 2 + (rows - centres[:, 1:, None]) ** 2).sqrt()

        original = self.sam.logits
        self.sam.logits = logits  # type: ignore[method-assign, assignment]
        try:
            return super()._answer(found, *rest)
        finally:
            self.sam.logits = original  # type: ignore[method-assign]


def test_without_augmentation_it_is_sams_own_mask(sam: FrozenSam, picture: np.ndarray) -> None:
    labels = torch.zeros(2, SIDE, SIDE, dtype=torch.long)
    labels[1, 10:31, 6:20] = 1
    found, prompted = SamTeacher(sam, "box", 0.0).teach(
        labels, EYE.expand(2, 2, 3), [case("b"), case()], Reader(picture), 1, np.random.default_rng(0)
    )
    assert prompted.tolist() == [False, True]
    assert not found[0].any()
    corner = (np.array([[6, 10], [19, 30]]) + 0.5) * [WIDTH / SIDE, HEIGHT / SIDE] - 0.5
    low_res, geometry = sam.predict(picture, boxes=corner.reshape(1, 4))
    expected = F.interpolate(sam.restore(low_res, geometry)[None], (SIDE, SIDE), mode="bilinear")[0, 0] > 0
    assert (found[1].bool() == expected).float().mean() > 0.97
    assert 0.05 < expected.float().mean() < 0.95


@pytest.mark.parametrize("prompt", ["point", "box"])
@pytest.mark.parametrize("seed", [0, 2, 3, 4, 6, 8])
def test_masks_lie_where_the_network_looked_whatever_the_augmentation(
    sam: FrozenSam, picture: np.ndarray, seed: int, prompt: Any
) -> None:
    """Discs around the network's spot: in the augmented frame, too, and as large as the image is squashed."""
    augmentation = CpcSamAugmentation()
    motion = torch.from_numpy(augmentation.motion(seed, (HEIGHT, WIDTH)))
    labels = torch.zeros(1, SIDE, SIDE, dtype=torch.long)
    labels[0, 12:17, 28:33] = 1
    found, _ = Discs(sam, prompt, 0.0).teach(
        labels, motion[None], [case()], Reader(picture), 1, np.random.default_rng(0)
    )
    rows, columns = np.nonzero(found[0].numpy())
    assert (rows.mean(), columns.mean()) == pytest.approx((14, 30), abs=2.1)  # a click is somewhere inside
    # The disc in the image's own pixels, through the same augmentation and the same resizing.
    scale = sam.image_size / WIDTH
    inside = augmentation(np.ones((HEIGHT, WIDTH), np.float32), None, seed)[0]
    frame = View(SIDE).fit_mask(inside.astype(np.uint8)).astype(bool)
    area = np.pi * 6**2 / scale**2 * SIDE**2 / (HEIGHT * WIDTH)
    assert found[0].numpy().sum() == pytest.approx(area * frame[8:21, 24:37].mean(), rel=0.15)


def test_embeddings_are_made_once(sam: FrozenSam, picture: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = torch.zeros(3, SIDE, SIDE, dtype=torch.long)
    labels[:, 10:20, 10:20] = 1
    labels[0, 30:40, 30:40] = 2
    reader, teacher = Reader(picture), SamTeacher(sam, "point", 0.0)
    cases = [case("a"), case("b"), case("a")._replace(slice_index=1)]
    both = [teacher.teach(labels, EYE.expand(3, 2, 3), cases, reader, 2, np.random.default_rng(5))[0] for _ in range(2)]
    assert torch.equal(*both)
    assert reader.read == len(teacher.encoded) == 3
    assert all(embedding.dtype == torch.float16 for embedding, _ in teacher.encoded.values())


def test_prompts_of_several_images_in_one_call(sam: FrozenSam) -> None:
    """The decoder's answer for each embedding is the one it gives for that embedding alone."""
    generator = torch.Generator().manual_seed(0)
    embeddings = sam.encode(torch.rand(3, 3, 64, 64, generator=generator))
    points = 60 * torch.rand(3, 1, 2, generator=generator)
    ones = torch.ones(3, 1, dtype=torch.int)
    together = sam.logits(embeddings, points, ones)
    for i in range(3):
        alone = sam.logits(embeddings[i : i + 1], points[i : i + 1], ones[:1])
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-4, atol=1e-4)


def test_of_two_classes_the_higher_logit_wins(sam: FrozenSam, picture: np.ndarray) -> None:
    labels = torch.zeros(1, SIDE, SIDE, dtype=torch.long)
    labels[0, 20:23, 14:17], labels[0, 20:23, 20:23] = 1, 2
    found, _ = Discs(sam, "point", 0.5).teach(labels, EYE[None], [case()], Reader(picture), 2, np.random.default_rng(0))
    assert set(found.unique().tolist()) == {0, 1, 2}
    assert found[0, 21, 13] == 1
    assert found[0, 21, 23] == 2
    assert (found == 1).sum() == pytest.approx((found == 2).sum().item(), rel=0.2)
