import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_samseg.losses.dice_ce import cross_entropy_loss, dice_ce_loss, dice_loss
from lightning_samseg.types import IGNORED
from tests.online.test_distributed import in_processes


@pytest.fixture
def case() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(2, 4, 7, 9, generator=generator)
    return logits, torch.randint(0, 4, (2, 7, 9), generator=generator)


def numpy_dice(logits: Tensor, target: Tensor) -> float:
    """The definition, one class at a time, in float64."""
    scores = np.exp(logits.double().numpy())
    p = scores / scores.sum(1, keepdims=True)
    losses = []
    for k in range(p.shape[1]):
        t = (target.numpy() == k).astype(float)
        losses.append(1 - (2 * (p[:, k] * t).sum() + 1e-5) / ((p[:, k] ** 2).sum() + (t**2).sum() + 1e-5))
    return float(np.mean(losses))


def test_dice_equals_definition_and_monai(case: tuple[Tensor, Tensor]) -> None:
    losses = pytest.importorskip("monai.losses")
    logits, target = case
    monai_dice = losses.DiceLoss(
        softmax=True, to_onehot_y=True, squared_pred=True, batch=True, smooth_nr=1e-5, smooth_dr=1e-5
    )
    ours = dice_loss(logits, target).item()
    assert ours == pytest.approx(numpy_dice(logits, target), abs=1e-6)
    assert ours == pytest.approx(monai_dice(logits, target[:, None]).item(), abs=1e-6)


def test_class_without_target_pixels_costs_almost_one() -> None:
    logits = torch.zeros(1, 2, 4, 4)
    target = torch.zeros(1, 4, 4, dtype=torch.int64)
    # p = 1/2 everywhere: class 0 overlaps 8, sizes 4 + 16; class 1 overlaps nothing.
    assert dice_loss(logits, target).item() == pytest.approx(((1 - 16 / 20) + 1) / 2, abs=1e-5)


def test_perfect_prediction_costs_nothing() -> None:
    target = torch.arange(4).repeat(1, 4, 1)
    logits = 100 * F.one_hot(target, 4).permute(0, 3, 1, 2).float()
    assert dice_ce_loss(logits, target, 0.5).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("weight", [0.0, 0.5, 0.8, 1.0])
def test_weighted_sum(case: tuple[Tensor, Tensor], weight: float) -> None:
    logits, target = case
    expected = weight * numpy_dice(logits, target) + (1 - weight) * F.cross_entropy(logits, target).item()
    assert dice_ce_loss(logits, target, weight).item() == pytest.approx(expected, abs=1e-6)


def test_gradient_is_that_of_finite_differences(case: tuple[Tensor, Tensor]) -> None:
    logits, target = case[0][:, :, :3, :3].double().requires_grad_(), case[1][:, :3, :3]
    assert torch.autograd.gradcheck(lambda x: dice_ce_loss(x, target, 0.8), (logits,))


class TestSoftTarget:
    @pytest.fixture
    def soft(self) -> Tensor:
        return torch.randn(2, 4, 7, 9, generator=torch.Generator().manual_seed(1)).softmax(1)

    def test_is_the_definition_and_monais(self, case: tuple[Tensor, Tensor], soft: Tensor) -> None:
        logits, p, t = case[0], case[0].double().softmax(1), soft.double()
        over = (0, 2, 3)
        dice = 1 - (2 * (p * t).sum(over) + 1e-5) / ((p**2).sum(over) + (t**2).sum(over) + 1e-5)
        assert dice_loss(logits, soft).item() == pytest.approx(dice.mean().item(), abs=1e-6)
        expected = 0.8 * dice.mean() + 0.2 * F.cross_entropy(logits.double(), t)
        assert dice_ce_loss(logits, soft, 0.8).item() == pytest.approx(expected.item(), abs=1e-6)
        monai_dice = pytest.importorskip("monai.losses").DiceLoss(
            softmax=True, squared_pred=True, batch=True, smooth_nr=1e-5, smooth_dr=1e-5
        )
        assert dice_loss(logits, soft).item() == pytest.approx(monai_dice(logits, soft).item(), abs=1e-6)

    def test_certain_probabilities_are_class_ids(self, case: tuple[Tensor, Tensor]) -> None:
        logits, target = case
        certain = F.one_hot(target, 4).permute(0, 3, 1, 2).float()
        keep = torch.arange(9).expand(7, 9) < 5
        for loss, arguments in ((dice_ce_loss, (0.8,)), (dice_loss, (keep,)), (cross_entropy_loss, (keep,))):
            assert loss(logits, certain, *arguments).item() == pytest.approx(
                loss(logits, target, *arguments).item(), abs=1e-6
            )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_computed_in_float32(case: tuple[Tensor, Tensor], dtype: torch.dtype) -> None:
    logits, target = case[0].to(dtype).requires_grad_(), case[1]
    loss = dice_ce_loss(logits, target, 0.8)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, dice_ce_loss(logits.float(), target, 0.8))
    loss.backward()
    assert logits.grad is not None
    assert logits.grad.dtype == dtype
    assert logits.grad.isfinite().all()


def test_extreme_logits_stay_finite() -> None:
    logits = torch.tensor([1e4, -1e4]).view(1, 2, 1, 1).requires_grad_()
    loss = dice_ce_loss(logits, torch.ones(1, 1, 1, dtype=torch.int64), 0.8)
    loss.backward()
    assert loss.isfinite()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


# Ignored pixels -------------------------------------------------------------------------------------------------------


@pytest.fixture
def holes(case: tuple[Tensor, Tensor]) -> Tensor:
    target = case[1].clone()
    target[0, :3], target[1, 2, 4:] = IGNORED, IGNORED
    return target


def test_ignored_pixels_by_hand() -> None:
    """Two pixels with p = (3/4, 1/4), the second ignored: CE = -log 3/4; both are judged by one pixel."""
    logits = torch.tensor([3.0, 1.0]).log().view(1, 2, 1, 1).expand(1, 2, 1, 2)
    target = torch.tensor([[[0, IGNORED]]])
    dice = ((1 - 2 * 0.75 / (0.75**2 + 1)) + 1) / 2
    assert cross_entropy_loss(logits, target).item() == pytest.approx(-np.log(0.75), abs=1e-6)
    assert dice_loss(logits, target).item() == pytest.approx(dice, abs=1e-4)
    assert dice_ce_loss(logits, target, 0.5).item() == pytest.approx((dice - np.log(0.75)) / 2, abs=1e-4)


@pytest.mark.parametrize("weight", [0.0, 0.5, 0.8, 1.0])
def test_ignored_pixels_might_as_well_be_cut_out(case: tuple[Tensor, Tensor], holes: Tensor, weight: float) -> None:
    known = holes != IGNORED
    logits = case[0].clone().requires_grad_()
    left = case[0].movedim(1, -1)[known].T[None, :, None].clone().requires_grad_()
    loss = dice_ce_loss(logits, holes, weight)
    assert loss.item() == pytest.approx(dice_ce_loss(left, holes[known][None, None], weight).item(), abs=1e-6)
    expected = F.cross_entropy(case[0], holes, ignore_index=IGNORED).item()
    assert cross_entropy_loss(logits, holes).item() == pytest.approx(expected, abs=1e-6)
    assert dice_loss(logits, holes).item() == pytest.approx(
        numpy_dice(left.detach(), holes[known][None, None]), abs=1e-6
    )
    loss.backward()
    dice_ce_loss(left, holes[known][None, None], weight).backward()
    assert (logits.grad.movedim(1, -1)[~known] == 0).all()
    torch.testing.assert_close(logits.grad.movedim(1, -1)[known].T, left.grad[0, :, 0], rtol=1e-5, atol=1e-7)


def test_ignored_pixels_join_those_that_are_not_kept(case: tuple[Tensor, Tensor], holes: Tensor) -> None:
    keep = torch.rand(holes.shape, generator=torch.Generator().manual_seed(1)) > 0.5
    both = keep & (holes != IGNORED)
    for loss in (dice_loss, cross_entropy_loss):
        torch.testing.assert_close(loss(case[0], holes, keep), loss(case[0], case[1], both))


def test_nothing_known_costs_nothing(case: tuple[Tensor, Tensor]) -> None:
    logits = case[0].clone().requires_grad_()
    loss = dice_ce_loss(logits, torch.full_like(case[1], IGNORED), 0.8)
    loss.backward()
    assert loss.item() == 0
    assert (logits.grad == 0).all()


@pytest.mark.processes
def test_unlike_numbers_of_ignored_pixels_on_two_ranks(tmp_path, case: tuple[Tensor, Tensor], holes: Tensor) -> None:
    """The mean of the ranks' losses and gradients is that of one process with both images."""

    def work(rank: int) -> list[Tensor]:
        torch.set_num_threads(1)
        logits = case[0][rank : rank + 1].double().requires_grad_()
        loss = dice_ce_loss(logits, holes[rank : rank + 1], 0.3)
        loss.backward()
        return [loss.detach(), logits.grad]

    (first, g_first), (second, g_second) = in_processes(tmp_path, 2, work)
    logits = case[0].double().requires_grad_()
    loss = dice_ce_loss(logits, holes, 0.3)
    loss.backward()
    torch.testing.assert_close((first + second) / 2, loss.detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(torch.cat([g_first, g_second]) / 2, logits.grad, rtol=1e-12, atol=1e-12)
