"""Batches: what travels, what arrives, and that it is what ``prepare_image`` gives."""

import numpy as np
import pytest
import torch

from data_modules import BusiDataModule, FolderDataModule
from data_modules.loading.dataset import SegmentationDataset
from lightning_samseg.errors import UserError
from lightning_samseg.io.images import read_image, write_image
from lightning_samseg.methods.base import restore_size
from lightning_samseg.transforms import View, prepare_image
from tests.fakes import write_busi, write_folder

SIZES = [(20, 33), (64, 16), (41, 40), (16, 70)]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Unequal sizes, and grey, RGB and 16-bit images beside each other."""
    folder = write_folder(tmp_path_factory.mktemp("own"), [f"a{n}" for n in range(4)], values=(1, 2))
    rng = np.random.default_rng(0)
    for number, size in enumerate(SIZES):
        image = rng.integers(0, 256, (*size, 3) if number % 2 else size, dtype=np.uint8)
        image = rng.integers(0, 4000, size).astype(np.uint16) if number == 2 else image
        write_image(folder / "images" / f"a{number}.png", image)
        write_image(folder / "masks" / f"a{number}.png", rng.integers(0, 3, size, dtype=np.uint8))
    return folder


def own(root, **options):
    (batch,) = (data := FolderDataModule(str(root), **{"image_size": 32, **options}))._once(
        data.layout.items(), "evaluation"
    )
    return batch


@pytest.mark.parametrize("normalise", ["minmax", "sam", "percentile"])
@pytest.mark.parametrize("resize", ["squash", "longest_side"])
def test_every_image_of_a_batch_is_what_prepare_image_gives(root, normalise, resize):
    batch = own(root, normalise=normalise, resize=resize)
    view = View(32, resize, normalise)
    assert batch["image"].shape == (4, 3, 32, 32)
    assert (batch["image"].dtype, batch["mask"].dtype) == (torch.float32, torch.int64)
    assert ("padding" in batch) == (resize == "longest_side")
    for place, case in enumerate(batch["cases"]):
        assert case.original_size == SIZES[place]
        label = read_image(root / "masks" / f"a{place}.png")
        frame = prepare_image(read_image(case.source), view, case.case_id, source=case.source, label=label)
        assert frame.case == case
        np.testing.assert_array_equal(batch["image"][place], frame.image)
        np.testing.assert_array_equal(batch["mask"][place], frame.mask)
        np.testing.assert_array_equal(batch["reference"][place], label)
        height, width = case.content_size
        assert max(height, width) == 32
        if resize == "longest_side":
            inside = ~batch["padding"][place]
            assert inside[:height, :width].all()
            assert inside.sum() == height * width
            assert not batch["image"][place][:, ~inside].any()
            assert not batch["mask"][place][~inside].any()


@pytest.mark.parametrize("resize", ["squash", "longest_side"])
@pytest.mark.parametrize("geometry", ["half_pixel", "corner_aligned"])
def test_a_prediction_goes_back_to_the_original_size(root, resize, geometry):
    """Enlarged without loss, the network's mask comes back as the label it was made from."""
    batch = own(root, image_size=512, resize=resize, geometry=geometry)
    for mask, case, reference in zip(batch["mask"], batch["cases"], batch["reference"], strict=True):
        perfect = torch.nn.functional.one_hot(mask, 3).permute(2, 0, 1).float()
        restored = restore_size(perfect, case, "labels")
        assert restored.shape == case.original_size
        if geometry == "half_pixel":
            np.testing.assert_array_equal(restored, reference)
        else:  # SciPy's rounding may leave the last row and column of some pairs of sizes empty
            np.testing.assert_array_equal(restored[:-1, :-1], reference[:-1, :-1])


def test_equal_channels_share_their_memory_until_they_are_needed(root, tmp_path):
    data = BusiDataModule(str(write_busi(tmp_path)), split="random", image_size=32)
    for loader in (data.val_dataloader(), data.predict_dataloader()):
        batch = next(iter(loader))
        image = batch["image"]
        assert image.untyped_storage().nbytes() == image.numel() * 4 / 3
        moved = data.transfer_batch_to_device(batch, torch.device("cpu"), 0)
        assert torch.equal(moved["image"], image)
        assert moved.keys() == batch.keys()
        pair = data.transfer_batch_to_device({"labelled": batch, "unlabelled": batch}, torch.device("meta"), 0)
        assert [part["image"].shape for part in pair.values()] == [image.shape] * 2
        assert pair["labelled"]["image"].device.type == "meta"
        assert pair["labelled"]["cases"] == batch["cases"]
    colour = own(root)  # one colour image is enough
    assert colour["image"].is_contiguous()
    assert torch.equal(data.transfer_batch_to_device(colour, torch.device("cpu"), 0)["image"], colour["image"])
    items = [{"position": 1}]
    assert data.transfer_batch_to_device(items, torch.device("cpu"), 0) == items


def test_workers_deliver_the_same(root):
    one, other = own(root), own(root, num_workers=1)
    assert one.keys() == other.keys()
    assert one["cases"] == other["cases"]
    for name in ("image", "mask"):
        assert torch.equal(one[name], other[name])
    for name in ("reference", "original"):
        assert all(map(np.array_equal, one[name], other[name]))


def test_views_come_again_and_are_those_of_every_seed(root):
    """The n-th time that an image comes it is its n-th view, wherever it stands in the stream."""
    data = FolderDataModule(str(root), image_size=32, views=3)

    def view(index, position, key):
        dataset = SegmentationDataset(
            data.layout, data.layout.items(), data.view, "labelled", data._augmentation(), key
        )
        dataset.views = data.views
        batch = dataset[[(index, position)]]
        return torch.cat([batch["image"][0].flatten(), batch["mask"][0].flatten().float()])

    rounds = [view(1, 4 * n + n % 4, (5, 0)) for n in range(7)]
    others = [view(1, 4 * n + 3, (6, 1)) for n in range(7)]
    assert all(torch.equal(a, b) for a, b in zip(rounds, others, strict=True))
    assert all(torch.equal(rounds[n], rounds[n + 3]) for n in range(4))
    assert len({tuple(each.tolist()) for each in rounds}) > 1


@pytest.mark.parametrize("wrong", [{"views": 0}, {"views": 2, "augment": "none"}])
def test_impossible_views(root, wrong):
    with pytest.raises(UserError, match=r"data\.views"):
        FolderDataModule(str(root), **wrong)
