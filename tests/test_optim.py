from functools import partial

import pytest
import torch

from lightning_samseg.errors import UserError
from lightning_samseg.optim import warmup_poly


def test_warmup_then_decay_by_hand() -> None:
    factors = [warmup_poly(step, warmup=2, power=2.0, max_iters=4) for step in range(8)]
    assert factors == [1 / 2, 1 / 2, 1.0, 1.0, (3 / 4) ** 2, (1 / 2) ** 2, (1 / 4) ** 2, 0.0]


def test_past_the_end_the_rate_stays_zero() -> None:
    assert warmup_poly(10_000, warmup=2, power=0.9, max_iters=4) == 0.0


def test_no_warmup_starts_at_the_full_rate() -> None:
    assert [warmup_poly(step, 0, 1.0, 10) for step in range(4)] == [1.0, 1.0, 0.9, 0.8]


def test_drives_lambda_lr() -> None:
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, partial(warmup_poly, warmup=2, power=1.0, max_iters=4))
    rates = []
    for _ in range(5):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    assert rates == pytest.approx([0.05, 0.05, 0.1, 0.1, 0.075])


@pytest.mark.parametrize("max_iters", [0, -1])
def test_unlimited_run_is_refused(max_iters: int) -> None:
    with pytest.raises(UserError, match=r"max_steps"):
        warmup_poly(0, 250, 0.9, max_iters)
