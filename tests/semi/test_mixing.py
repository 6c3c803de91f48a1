"""Ranges of the boxes against the authors' recorded draws, and the masks that they make."""

import numpy as np
import pytest
import torch

from lightning_samseg.semi.mixing import NO_BOX, copy_paste_box, cutmix_boxes, halves, inside
from tests.reference.ssl_oracle import SslOracle


@pytest.fixture(scope="module")
def oracle() -> SslOracle:
    return SslOracle()


def test_copy_paste_boxes(oracle: SslOracle) -> None:
    rng = np.random.default_rng(0)
    boxes = np.array([copy_paste_box(256, 2 / 3, rng) for _ in range(2000)])
    for drawn in (boxes, oracle["bcp.boxes256"]):
        assert (drawn[:, 2:] - drawn[:, :2] == 170).all()
        assert drawn.min() >= 0
        assert drawn[:, :2].max() <= 85
    assert set(boxes[:, 0]) == set(boxes[:, 1]) == set(range(86))


def test_cutmix_boxes(oracle: SslOracle) -> None:
    drawn = cutmix_boxes(4000, 256, np.random.default_rng(0))
    boxes = np.array([box for box in drawn if box != NO_BOX])
    assert len(boxes) == pytest.approx(2000, abs=150)
    recorded = oracle["unimatch.cutmix256"]
    for found in (boxes, recorded[recorded[:, 0] >= 0]):
        height, width = (found[:, 2:] - found[:, :2]).T
        assert found.min() >= 0
        assert found.max() <= 256
        area = height * width / 256**2
        assert area.max() <= 0.4
        assert area.min() > 0.019  # whole pixels
        assert (height / width).max() < 3.45
        assert (height / width).min() > 0.29
    assert (boxes[:, 2] - boxes[:, 0] > boxes[:, 3] - boxes[:, 1]).mean() > 0.6  # uniform ratios favour tall boxes


def test_no_probability_no_box() -> None:
    assert cutmix_boxes(50, 64, np.random.default_rng(0), probability=0.0) == [NO_BOX] * 50


def test_inside() -> None:
    found = inside([(1, 2, 3, 6), NO_BOX], 8, torch.device("cpu"))
    expected = torch.zeros(2, 8, 8, dtype=torch.bool)
    expected[0, 1:3, 2:6] = True
    assert torch.equal(found, expected)


def test_processes_make_the_pairs_of_one() -> None:
    """Each has a stretch of the whole batch."""
    whole = torch.arange(8)
    parts = [torch.stack(halves(part, "labelled")) for part in whole.chunk(2)]
    assert torch.equal(torch.stack(halves(whole, "labelled")), torch.cat(parts, 1))
