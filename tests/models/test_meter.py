"""Bytes and operations counted by hand."""

import torch
from torch.nn import functional as F

from lightning_samseg.models.meter import Meter
from lightning_samseg.planning import shapes_only

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


def test_operations_are_counted_forward_and_backward() -> None:
    a, b = torch.rand(64, 32, requires_grad=True), torch.rand(32, 16)
    with Meter() as products:
        (a @ b).sum().backward()  # and one for the gradient of a
    assert products.flops == 2 * (2 * 64 * 32 * 16)
    q = torch.rand(1, 2, 50, 8, requires_grad=True)
    with Meter() as attention:
        torch.nn.functional.scaled_dot_product_attention(q, q, q).sum().backward()
    assert attention.flops == (2 + 5) * (2 * 2 * 50 * 50 * 8)  # products of 50 x 50 x 8 in each of two heads
