"""Bytes and operations counted by hand."""

import pytest
import torch
from torch.nn import functional as F

from lightning_samseg.planning import Meter, shapes_only

KB = 1000 * 4


def test_storages_count_once_and_until_the_last_tensor_is_gone() -> None:
    with Meter() as meter:
        first = torch.zeros(1000)
        view = first[::2].view(5, 100)
        assert meter.alive == KB
        second = first + 1
        assert meter.alive == 2 * KB
        del first
        assert meter.alive == 2 * KB
        del view
        assert (meter.alive, meter.peak) == (KB, 2 * KB)
        meter.start_anew()
        second += 1
        assert meter.peak == KB


def test_what_backward_keeps_is_alive() -> None:
    with Meter() as meter:
        x = torch.ones(1000, requires_grad=True)
        y = x.exp().sin()  # keeps both results' inputs
        assert meter.alive == 3 * KB
        y.sum().backward()
        del y
        assert meter.alive == 2 * KB  # x and its gradient


def test_products_and_attention() -> None:
    with shapes_only(num_classes=1), Meter() as meter:
        torch.zeros(10, 20) @ torch.zeros(20, 30)
        assert meter.flops == 2 * 10 * 20 * 30
        q = torch.zeros(2, 4, 100, 64)
        F.scaled_dot_product_attention(q, q, q)
        assert meter.flops == 2 * 10 * 20 * 30 + 2 * (2 * 2 * 4 * 100 * 100 * 64)


def test_host_reads_have_the_right_form() -> None:
    with shapes_only(num_classes=2):
        labels = torch.zeros(2, 6, 6, dtype=torch.long)
        array = labels.to(torch.uint8).cpu().numpy()
        assert array.shape == (2, 6, 6)
        assert set(array[0, 0]) == {0, 1, 2}
        assert bool((labels > 0).all())
        assert torch.rand(()).item() == 1
        chosen = torch.rand(4, 5, 3)
        chosen[labels[0, :4, :5] == 1] += 1
        assert chosen.shape == (4, 5, 3)
    assert torch.nn.Linear(2, 2).double().weight.dtype == torch.float64


@pytest.mark.parametrize("size", [64, 640_000_000])
def test_fake_tensors_take_no_memory(size: int) -> None:
    with shapes_only(num_classes=1), Meter() as meter:
        kept = torch.empty(size) + 1
        assert meter.alive == 4 * size
        del kept
