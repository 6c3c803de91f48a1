"""The numbers about pseudo labels, on a method whose answers are known."""

from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_samseg.methods.pseudo_labels import examine
from tests.methods.test_cpc_sam import SIDE, Quiet


class Known(Quiet):
    """Unprompted, branch 1 finds the left half and branch 2 nothing; prompted, each finds the upper half."""

    def encode(self, images: Tensor) -> list[Tensor]:
        return [images, images]

    def decode(self, embeddings: Any, branch: int, points: Tensor | None = None, *_: Any, **__: Any) -> Tensor:
        labels = torch.zeros(len(embeddings[0]), SIDE, SIDE, dtype=torch.long)
        if points is not None:
            labels[:, : SIDE // 2] = 1
        elif branch == 0:
            labels[:, :, : SIDE // 2] = 1
        return 9.0 * torch.nn.functional.one_hot(labels, 3).permute(0, 3, 1, 2)


def test_known_answers() -> None:
    mask = torch.zeros(2, SIDE, SIDE, dtype=torch.long)
    mask[:, : SIDE // 2] = 1  # the upper half
    found = examine(Known(), [{"image": torch.rand(2, 3, SIDE, SIDE), "mask": mask}])
    assert found["unprompted_dsc"] == pytest.approx((0.5 + 0) / 2)
    assert found["centre_dsc"] == found["random_dsc"] == found["pseudo_dsc"] == 1
    assert found["agreement"] == 0
    assert found["empty"] == 0.5
    assert found["empty_pseudo"] == 0
    assert 0.99 < found["confidence"] <= 1
    assert 0 <= found["random_inside"] <= 1


def test_points_count_inside_where_they_lie_on_their_class() -> None:
    """Branch 2 is prompted by points of the left half; branch 1 by none, which leaves its points out."""
    left, right = torch.zeros(2, 1, SIDE, SIDE, dtype=torch.long)
    left[:, :, : SIDE // 2] = 1
    right[:, :, SIDE // 2 :] = 1
    for mask, share in ((left, 1.0), (right, 0.0)):
        found = examine(Known(), [{"image": torch.rand(1, 3, SIDE, SIDE), "mask": mask}])
        assert (found["centre_inside"], found["random_inside"]) == (share, share)
