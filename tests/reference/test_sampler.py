"""Group G of the recording: what a batch of the authors' two-stream sampler is made of, and ours."""

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from data_modules.loading.samplers import StreamSampler
from tests.reference.oracle import Oracle

pytestmark = pytest.mark.reference
LABELLED, TOTAL, HALF = 32, 1312, 6


def ours(batches: int) -> np.ndarray:
    """Batches of our two streams as rows of indices into the training list, the labelled half first."""
    streams = [
        StreamSampler(TensorDataset(torch.zeros(size)), HALF, batches, seed=1337, stream=number)
        for number, size in enumerate((LABELLED, TOTAL - LABELLED))
    ]
    rows = [
        [index for index, _ in streams[0].batch(t)] + [LABELLED + i for i, _ in streams[1].batch(t)]
        for t in range(batches)
    ]
    return np.array(rows)


@pytest.mark.parametrize("which", ["G_sampler_epoch1", "G_sampler_epoch2", "ours"])
def test_a_pass_over_the_labelled_images(oracle: Oracle, which: str) -> None:
    """Half of every batch is labelled, and nothing comes twice while the labelled images last."""
    epoch = ours(LABELLED // HALF) if which == "ours" else oracle[which]
    assert epoch.shape == (int(oracle["G_sampler_len"]), 2 * HALF)
    labelled, unlabelled = epoch[:, :HALF], epoch[:, HALF:]
    assert labelled.max() < LABELLED <= unlabelled.min()
    assert unlabelled.max() < TOTAL
    assert np.unique(labelled).size == labelled.size
    assert np.unique(unlabelled).size == unlabelled.size


def test_where_ours_differs() -> None:
    """The authors drop the two images left over at the end of a pass and start both streams anew; ours go on."""
    rows = ours(2 * LABELLED)
    assert set(np.bincount(rows[:, :HALF].ravel())) == {2 * HALF}
    assert np.unique(rows[:, HALF:]).size == 2 * LABELLED * HALF
