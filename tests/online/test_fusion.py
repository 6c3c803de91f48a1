import io

import numpy as np
import pytest
import torch

from lightning_samseg.errors import UserError
from lightning_samseg.online import fusion as module
from lightning_samseg.online.fusion import Fusion, FusionConfig, fuse, optimal_alpha
from lightning_samseg.types import IGNORED

CPU = torch.device("cpu")


def brute_force(s, u, y, step):
    best, best_dice = None, -1.0
    for i in range(round(1 / step) + 1):
        p = 1 / (1 + np.exp(-(i * step * s + (1 - i * step) * u)))
        dice = (2 * (p * y).sum() + 1) / (p.sum() + y.sum() + 1)
        if dice > best_dice:
            best, best_dice = i * step, dice
    return best


@pytest.mark.parametrize("pixels_at_once", [2**22, 100])
@pytest.mark.parametrize("step", [0.05, 0.25])
def test_grid_against_brute_force(monkeypatch, pixels_at_once, step):
    monkeypatch.setattr(module, "PIXELS_AT_ONCE", pixels_at_once)
    rng = np.random.default_rng(0)
    found = []
    for _ in range(30):
        y = np.zeros((11, 17))
        y[rng.integers(0, 4) : 8, rng.integers(0, 6) : 12] = 1
        signal, noise = 4 * y - 2, rng.normal(size=(3, 11, 17))
        s = rng.uniform(0, 2) * signal + 2 * noise[0] + noise[2]
        u = rng.uniform(0, 2) * signal + 2 * noise[1] - noise[2]
        arguments = (torch.tensor(value, dtype=torch.float32) for value in (s, u))
        alpha = optimal_alpha(*arguments, torch.tensor(y > 0), step).item()
        assert alpha == pytest.approx(brute_force(s, u, y, step), abs=1e-6)
        found.append(alpha)
    assert min(found) == 0  # the cases cover both ends and what is between
    assert max(found) == 1
    assert len(set(found)) >= 4


def test_ends_ties_and_exactness():
    y = torch.zeros(6, 6)
    y[2:4, 2:4] = 1
    good, bad = 8 * y - 4, 4 - 8 * y
    assert optimal_alpha(good, bad, y) == 1
    assert optimal_alpha(bad, good, y) == 0
    assert optimal_alpha(good, good, y) == 0  # the smallest of equally good values
    noise = torch.rand(5, 5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(fuse(noise, noise.exp(), torch.tensor(1.0)), noise)
    assert torch.equal(fuse(noise, noise.exp(), torch.tensor(0.0)), noise.exp())
    torch.testing.assert_close(fuse(noise, noise.exp(), torch.tensor(0.3)), 0.3 * noise + 0.7 * noise.exp())


def observe(fusion, alpha):
    """Let the fusion find ``alpha``, one of 0 and 1."""
    y = torch.zeros(6, 6)
    y[2:4, 2:4] = 1
    good, bad = 8 * y - 4, 4 - 8 * y
    best = optimal_alpha(*((good, bad) if alpha == 1 else (bad, good)), y)
    assert best == alpha
    fusion.remember(best)


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        ("half", [0.5, 1, 1, 2 / 3, 1 / 3, 1 / 3]),  # before the first, then after each of 1 1 0 0 1
        ("sam", [1, 1, 1, 2 / 3, 1 / 3, 1 / 3]),
    ],
)
def test_mean_of_the_last_k_and_both_starts(start, expected):
    fusion = Fusion(FusionConfig("adaptive", window=3, start=start))
    values = [fusion.value(CPU).item()]
    for alpha in (1, 1, 0, 0, 1):
        observe(fusion, alpha)
        values.append(fusion.value(CPU).item())
    assert values == pytest.approx(expected)


def test_sam_start_lasts_until_the_window_is_full():
    fusion = Fusion(FusionConfig("adaptive", window=3, start="sam"))
    values = []
    for _ in range(4):
        values.append(fusion.value(CPU).item())
        observe(fusion, 0)
    assert values == [1, 1, 1, 0]


def test_half_start_uses_what_there_is():
    fusion = Fusion(FusionConfig("adaptive", alpha=0.25, window=5))
    values = []
    for alpha in (0, 1):
        values.append(fusion.value(CPU).item())
        observe(fusion, alpha)
    assert [*values, fusion.value(CPU).item()] == [0.25, 0, 0.5]


def test_fixed_never_moves_and_never_searches():
    fusion = Fusion(FusionConfig(alpha=0.7))
    observe(fusion, 0)
    assert fusion.value(CPU).item() == pytest.approx(0.7)
    assert not any(fusion.wants(source) for source in ("expert", "pseudo", "none"))


def test_whose_masks_move_alpha():
    assert [Fusion(FusionConfig("adaptive")).wants(s) for s in ("expert", "pseudo", "none")] == [True, False, False]
    assert all(Fusion(FusionConfig("adaptive", alpha_from="every")).wants(s) for s in ("expert", "pseudo", "none"))


@pytest.mark.parametrize("count", [0, 2, 7])
def test_state_survives_a_file(count):
    fusion = Fusion(FusionConfig("adaptive", window=4))
    for number in range(count):
        observe(fusion, number % 2)
    file = io.BytesIO()
    torch.save(fusion.state_dict(), file)
    file.seek(0)
    other = Fusion(FusionConfig("adaptive", window=4))
    observe(other, 1)
    other.load_state_dict(torch.load(file, weights_only=True))
    for alpha in (0, 0, 1):
        assert torch.equal(fusion.value(CPU), other.value(CPU))
        observe(fusion, alpha), observe(other, alpha)


def test_going_on_elsewhere_than_on_the_host():
    """A checkpoint's values are on the host, those that follow on the accelerator: here, the device without values."""
    fusion, other = Fusion(FusionConfig("adaptive", window=4)), Fusion(FusionConfig("adaptive", window=4))
    observe(fusion, 1)
    other.load_state_dict(fusion.state_dict())
    other.remember(torch.ones((), device="meta"))
    history = other.state_dict()["history"]
    assert (history.shape, history.device.type) == ((2,), "meta")


@pytest.mark.parametrize("wrong", [{"alpha": 1.5}, {"window": 0}, {"grid_step": 0.3}, {"grid_step": 0}])
def test_mistakes(wrong):
    with pytest.raises(UserError, match="fusion"):
        FusionConfig(**wrong)


def hard_dice(s, u, y, alpha):
    p = alpha * s + (1 - alpha) * u > 0
    return (2 * (p & y).sum() + 1) / (p.sum() + y.sum() + 1)


@pytest.mark.parametrize("least", [0.0, 0.5, 0.6])
def test_best_so_far_is_the_weight_of_the_best_masks(least):
    """By exhaustive search over the prompts before: mean gain less its standard error; of equals the nearest to SAM."""
    rng = np.random.default_rng(1)
    fusion = Fusion(FusionConfig("best_so_far", window=3, grid_step=0.25, alpha=least))
    grid, seen, found = np.linspace(0, 1, 5), [], []
    assert fusion.value(CPU) == 1
    for _ in range(30):
        y = rng.random((7, 9)) < 0.4
        s, u = (rng.normal(size=y.shape) * 2 + rng.uniform(-1, 2) * (2 * y - 1) for _ in range(2))
        dice = [hard_dice(s, u, y, alpha) for alpha in grid]
        seen = [*seen, dice][-3:]
        arguments = (torch.tensor(each, dtype=torch.float32) for each in (s, u))
        best = fusion.remember(fusion.observe(*arguments, torch.tensor(y)))
        assert best == max(alpha for alpha, d in zip(grid, dice, strict=True) if d == max(dice))
        gains = np.array(seen) - np.array(seen)[:, -1:]
        bound = gains.mean(0) - (gains.std(0, ddof=1) / np.sqrt(len(seen)) if len(seen) > 1 else np.inf)
        bounds = {alpha: each for alpha, each in zip(grid, bound, strict=True) if alpha >= least}
        expected = max(alpha for alpha, each in bounds.items() if each >= max(bounds.values()) - 1e-6)
        assert fusion.value(CPU).item() == pytest.approx(expected)
        found.append(expected)
    assert len(set(found)) > 1
    assert (min(found) < 0.5) == (least == 0.0)
    other = Fusion(fusion.config)
    other.load_state_dict(fusion.state_dict())
    assert other.value(CPU) == fusion.value(CPU)
    assert fusion.state_dict()["history"].shape == (3, 5)
    assert all(fusion.wants(source) == (source == "expert") for source in ("expert", "pseudo", "none"))


def test_a_network_that_does_not_help_leaves_sam_alone():
    y = torch.zeros(6, 6)
    y[2:4, 2:4] = 1
    fusion = Fusion(FusionConfig("best_so_far"))
    for _ in range(7):
        fusion.remember(fusion.observe(8 * y - 4, 4 - 8 * y, y))
        assert fusion.value(CPU) == 1
    fusion.remember(fusion.observe(8 * y - 4, 8 * y - 4, y))  # and one that says the same
    assert fusion.value(CPU) == 1


@pytest.mark.parametrize("other", [FusionConfig("adaptive"), FusionConfig("best_so_far", grid_step=0.1)])
def test_another_kind_of_history_is_refused(other):
    fusion = Fusion(FusionConfig("best_so_far"))
    fusion.remember(torch.rand(21))
    with pytest.raises(UserError, match="of another kind"):
        Fusion(other).load_state_dict(fusion.state_dict())


def test_ignored_pixels_do_not_move_alpha():
    rng = np.random.default_rng(3)
    for _ in range(20):
        y = rng.random((9, 12)) < 0.4
        s, u = (torch.tensor(3 * rng.normal(size=y.shape) + way * (4 * y - 2), dtype=torch.float32) for way in (1, -1))
        known = rng.random(y.shape) < 0.7
        label = torch.tensor(np.where(known, y, IGNORED).astype(np.uint8))
        expected = brute_force(s.double().numpy()[known], u.double().numpy()[known], y[known], 0.05)
        assert optimal_alpha(s, u, label).item() == pytest.approx(expected, abs=1e-6)
