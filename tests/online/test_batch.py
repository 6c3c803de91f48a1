import io

import pytest
import torch

from lightning_samseg.errors import UserError
from lightning_samseg.online.batch import BatchConfig, OnlineBatch


def offer(batch, name, loss):
    """Insert a crop and a mask filled with a number, and return the index written."""
    slot = batch.insert(torch.full((3, 4, 4), float(name)), torch.full((1, 4, 4), float(name)), torch.tensor(loss))
    return int(slot)


def names(batch):
    crops, masks = batch.tensors()
    assert crops.shape == (len(batch), 3, 4, 4)
    assert masks.shape == (len(batch), 1, 4, 4)
    assert torch.equal(crops[:, 0, 0, 0], masks[:, 0, 0, 0])
    return crops[:, 0, 0, 0].tolist()


def test_smallest_loss_by_hand():
    batch = OnlineBatch(BatchConfig(3))
    assert [offer(batch, 1, 0.5), offer(batch, 2, 0.25), offer(batch, 3, 0.75)] == [0, 1, 2]
    assert offer(batch, 4, 0.125) == -1  # smallest 0.25 > 0.125: stays as it is
    assert names(batch) == [1, 2, 3]
    assert offer(batch, 5, 0.25) == 1  # smallest <= loss, also when equal (Listing 1, line 13)
    assert names(batch) == [1, 5, 3]
    batch.update(torch.tensor([0.5, 0.5, 0.625]))
    assert offer(batch, 6, 0.5625) == 0  # of equal losses the lower index
    assert offer(batch, 7, 1.0) == 1
    assert names(batch) == [6, 7, 3]
    assert batch.losses.tolist() == [0.5625, 1.0, 0.625]
    batch.update(torch.tensor([0.25, 0.125, 0.0625]))  # the rule sees the losses of the last update
    assert offer(batch, 8, 0.1) == 2
    assert names(batch) == [6, 7, 8]


def test_grows_before_it_replaces_whatever_the_loss():
    batch = OnlineBatch(BatchConfig(3))
    assert [offer(batch, name, 0.0) for name in (1, 2, 3)] == [0, 1, 2]
    assert len(batch) == 3


def test_first_in_first_out():
    batch = OnlineBatch(BatchConfig(3, "fifo"))
    slots = [offer(batch, name, loss) for name, loss in enumerate([0.9, 0.1, 0.5, 0.0, 0.0, 0.0, 0.0])]
    assert slots == [0, 1, 2, 0, 1, 2, 0]
    assert sorted(names(batch)) == [4, 5, 6]


def test_single_holds_the_newest():
    batch = OnlineBatch(BatchConfig(32, "single"))
    for name in (1, 2, 3):
        assert offer(batch, name, 1.0 / name) == 0
        assert names(batch) == [name]


def test_a_loss_that_is_not_a_number_replaces_nothing_and_breaks_nothing():
    batch = OnlineBatch(BatchConfig(2))
    offer(batch, 1, 0.5), offer(batch, 2, 0.25)
    assert offer(batch, 3, float("nan")) == -1
    batch.update(torch.tensor([float("nan"), 0.5]))
    assert offer(batch, 4, 0.5) == -1
    assert names(batch) == [1, 2]


def test_storage_is_allocated_once_and_holds_copies():
    batch = OnlineBatch(BatchConfig(2))
    crop = torch.ones(3, 4, 4)
    batch.insert(crop, torch.ones(1, 4, 4), torch.tensor(1.0))
    storage = batch.tensors()[0].data_ptr()
    crop.zero_()
    assert batch.tensors()[0].min() == 1
    for name in (2, 3, 4):
        offer(batch, name, 1.0)
    assert batch.tensors()[0].data_ptr() == storage


@pytest.mark.parametrize("policy", ["smallest_loss", "fifo", "single"])
@pytest.mark.parametrize("count", [0, 2, 5])
def test_state_survives_a_file(policy, count):
    batch = OnlineBatch(BatchConfig(3, policy))
    for name in range(count):
        offer(batch, name, 0.5)
    file = io.BytesIO()
    torch.save(batch.state_dict(), file)
    file.seek(0)
    other = OnlineBatch(BatchConfig(3, policy))
    offer(other, 9, 0.9)
    other.load_state_dict(torch.load(file, weights_only=True))
    for name in range(count, count + 4):
        assert offer(batch, name, 0.5 + name / 32) == offer(other, name, 0.5 + name / 32)
        assert names(batch) == names(other)
        assert torch.equal(batch.losses, other.losses)


def test_state_is_a_copy():
    batch = OnlineBatch(BatchConfig(1))
    offer(batch, 1, 0.5)
    state = batch.state_dict()
    offer(batch, 2, 0.5)
    assert state["crops"].max() == 1


def test_mistakes():
    with pytest.raises(UserError, match="capacity 0"):
        OnlineBatch(BatchConfig(0))
    batch = OnlineBatch(BatchConfig(4))
    for name in range(4):
        offer(batch, name, 0.5)
    for other in (OnlineBatch(BatchConfig(3)), OnlineBatch(BatchConfig(5)), OnlineBatch(BatchConfig(4, "single"))):
        if other.capacity == 5:
            other.load_state_dict(batch.state_dict())  # not full yet, so nothing is lost
            assert offer(other, 9, 0.5) == 4
            continue
        with pytest.raises(UserError, match="another size"):
            other.load_state_dict(batch.state_dict())
