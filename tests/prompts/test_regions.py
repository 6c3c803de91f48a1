"""One answer without prompts, shared among prompts."""

import numpy as np
import pytest
import torch

from lightning_samseg.prompts.regions import ELSEWHERE, share_among_prompts


def answer() -> torch.Tensor:
    """A bar over columns 2..13, a square far right, noise below; logits all different."""
    rng = np.random.default_rng(0)
    logits = -rng.uniform(1, 3, (12, 30))
    for rows, columns in ((slice(2, 5), slice(2, 14)), (slice(2, 5), slice(24, 28)), (slice(10, 11), slice(20, 21))):
        logits[rows, columns] *= -1
    return torch.tensor(logits, dtype=torch.float32)[None]


def owners(shared: torch.Tensor) -> np.ndarray:
    return (shared != ELSEWHERE).numpy()


@pytest.mark.parametrize(
    "prompts",
    [
        np.array([[3.0, 3.0]]),
        np.array([[3.0, 3.0], [11.0, 3.5], [25.0, 3.0]]),
        np.array([[2.0, 2.0, 14.0, 5.0], [24.0, 2.0, 28.0, 5.0]]),
    ],
)
def test_together_they_have_the_whole_answer(prompts: np.ndarray) -> None:
    logits = answer()
    shared = share_among_prompts(logits, prompts)
    assert shared.shape == (len(prompts), 12, 30)
    assert (owners(shared).sum(0) == 1).all()
    assert torch.equal(shared.amax(0), logits[0])
    assert torch.equal((shared.sigmoid().sum(0) > 0.5), logits[0] > 0)


def test_an_object_belongs_to_the_point_on_it() -> None:
    """The bar's right end is nearer to the other point, which is not on it."""
    owned = owners(share_among_prompts(answer(), np.array([[2.0, 3.0], [16.0, 3.0]])))
    assert owned[0, 2:5, 2:14].all()
    assert not owned[1, 2:5, 2:14].any()
    assert owned[1, 2:5, 24:28].all()  # nobody is on the square
    assert owned[1, 10, 20]


def test_points_on_one_object_divide_it() -> None:
    owned = owners(share_among_prompts(answer(), np.array([[2.0, 3.0], [13.0, 3.0]])))
    assert owned[0, 3, 2:8].all()
    assert owned[1, 3, 8:14].all()


def test_every_box_has_all_of_its_inside() -> None:
    boxes = np.array([[2.0, 2.0, 9.0, 5.0], [6.0, 1.0, 14.0, 6.0]])
    logits = answer()
    shared = share_among_prompts(logits, boxes)
    assert torch.equal(shared[0, 2:5, 2:9], logits[0, 2:5, 2:9])
    assert torch.equal(shared[1, 1:6, 6:14], logits[0, 1:6, 6:14])
    owned = owners(shared)
    assert (owned.sum(0)[2:5, 6:9] == 2).all()
    assert owned[0, :, 0].all()
    assert owned[1, :, 25].all()


def test_a_point_outside_is_left_to_those_who_check() -> None:
    assert share_among_prompts(answer(), np.array([[50.0, -3.0], [3.0, 3.0]])).shape == (2, 12, 30)
