"""The stream that online learning walks through."""

from collections import Counter

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer

from data_modules import BusiDataModule
from data_modules.layouts.base import Item
from data_modules.layouts.busi import LISTS, RELEASED, BusiLayout
from data_modules.layouts.lists import read_list
from data_modules.online import OnlineDataset, OnlineLoader, OnlineSampler, order_stream
from lightning_samseg.errors import UserError
from lightning_samseg.io.images import read_image
from tests.fakes import truncate, write_busi


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_busi(tmp_path_factory.mktemp("busi"), benign=11, malignant=3, normal=2)


def busi(root, **options):
    return BusiDataModule(str(root), **{"image_size": 32, **options})


def walked(loader):
    return [(item["position"], item["set_name"], item["cases"][0].case_id) for item in loader]


def test_items_are_single_images_at_their_own_size(root):
    item = next(iter(busi(root).stream_dataloader()))
    assert set(item) == {"position", "set_position", "set_name", "cases", "original", "reference"}
    (case,) = item["cases"]
    assert (case.case_id, case.original_size, case.content_size) == ("benign (1)", (40, 48), (40, 48))
    np.testing.assert_array_equal(item["original"], read_image(case.source))
    assert item["original"].dtype == item["reference"].dtype == np.uint8
    expected = np.zeros((40, 48), np.uint8)
    expected[10:20, 12:24] = 1
    np.testing.assert_array_equal(item["reference"], expected)


def test_order_sets_and_list(root, tmp_path):
    """Needs no complete release and no split: the committed lists of BUSI name images that are not here."""
    names = [case for _, _, case in walked(busi(root).stream_dataloader())]
    assert names[:4] == ["benign (1)", "benign (10)", "benign (11)", "benign (2)"]  # letter by letter
    assert names[11:] == ["malignant (1)", "malignant (2)", "malignant (3)"]
    chosen = busi(root, stream_sets=["malignant", "benign"]).stream_items()
    assert [place.set_name for place in chosen] == ["malignant"] * 3 + ["benign"] * 11
    shuffled = [place.item.case_id for place in busi(root, stream_order="shuffled").stream_items()]
    assert sorted(shuffled) == sorted(names)
    assert shuffled[:11] != names[:11]
    assert set(shuffled[:11]) == set(names[:11])
    assert shuffled != [place.item.case_id for place in busi(root, seed=1).stream_items("shuffled")]
    (tmp_path / "walk.txt").write_text("malignant (2)\nbenign (3).png\nmalignant (1)\n")
    listed = busi(root, stream_order="list", stream_list=str(tmp_path / "walk.txt"))
    assert walked(listed.stream_dataloader()) == [
        (0, "malignant", "malignant (2)"),
        (1, "benign", "benign (3)"),
        (2, "malignant", "malignant (1)"),
    ]


def test_places_in_a_set_are_counted_anew_in_each_set(root, tmp_path):
    places = [(item["set_name"], item["set_position"]) for item in busi(root).stream_dataloader(start=9)]
    assert places == [("benign", 9), ("benign", 10), ("malignant", 0), ("malignant", 1), ("malignant", 2)]
    (tmp_path / "walk.txt").write_text("malignant (2)\nbenign (3)\nmalignant (1)\n")
    mixed = busi(root, stream_order="list", stream_list=str(tmp_path / "walk.txt"))
    assert [item["set_position"] for item in mixed.stream_dataloader()] == [0, 0, 1]


def test_the_test_part_of_the_split(root, tmp_path):
    data = busi(root, split="random", stream_part="test", stream_order="shuffled")
    names = [case for _, _, case in walked(data.stream_dataloader())]
    assert sorted(names) == sorted(item.case_id for item in data.splits.test)
    assert 0 < len(names) < 14
    with pytest.raises(UserError, match="no images of normal"):
        busi(root, split="random", stream_part="test", stream_sets=["normal"]).stream_items()
    (tmp_path / "walk.txt").write_text(f"{data.splits.train[0].case_id}\n")
    with pytest.raises(UserError, match="not in the stream"):
        busi(
            root, split="random", stream_part="test", stream_order="list", stream_list=str(tmp_path / "walk.txt")
        ).stream_items()
    with pytest.raises(UserError, match="of the 647 images in the lists"):
        busi(root, stream_part="test").stream_items()


def test_the_test_part_of_busis_committed_lists(monkeypatch, tmp_path):
    released = [
        Item(f"{category} ({number})", tmp_path / f"{category} ({number}).png", (), category)
        for category, count in RELEASED.items()
        for number in range(1, count + 1)
    ]
    monkeypatch.setattr(BusiLayout, "items", lambda layout: released)
    for part, counts in (("all", {"benign": 437, "malignant": 210}), ("test", {"benign": 88, "malignant": 42})):
        streamed = busi(tmp_path, stream_part=part).stream_items()
        assert Counter(place.set_name for place in streamed) == counts
    assert {place.item.case_id for place in streamed} == set(read_list(LISTS / "test.txt"))


def test_slices_of_a_volume_stay_together(tmp_path):
    volumes = [Item(case, tmp_path / f"{case}.h5", slice_index=k, num_slices=12) for k in range(12) for case in "cab"]
    for order in ("sorted", "shuffled"):
        places = order_stream({"heart": volumes}, order)
        assert [place.item.slice_index for place in places] == [*range(12)] * 3
        assert len({place.item.case_id for place in places[:12]}) == 1


@pytest.mark.parametrize("workers", [0, 2])
def test_it_starts_anywhere_and_workers_change_nothing(root, workers):
    whole = walked(busi(root).stream_dataloader())
    data = busi(root, num_workers=workers)
    assert walked(data.stream_dataloader(start=5)) == whole[5:]
    assert len(data.stream_dataloader(start=5)) == len(whole) == 14
    assert walked(data.stream_dataloader(start=14)) == []


@pytest.mark.parametrize("workers", [0, 2])
def test_the_images_that_come_next_are_shown(root, workers):
    def positions(items):
        return [item["position"] for item in items]

    loader = busi(root, num_workers=workers).stream_dataloader(start=9)
    loader.look_ahead = 3
    found = list(loader)
    assert positions(found) == [9, 10, 11, 12, 13]
    assert [positions(item.pop("upcoming")) for item in found] == [[10, 11, 12], [11, 12, 13], [12, 13], [13], []]
    for item, plain in zip(found, busi(root).stream_dataloader(start=9), strict=True):
        assert item.keys() == plain.keys()
        np.testing.assert_array_equal(item["original"], plain["original"])
    layout = BusiLayout(str(root))
    dataset = OnlineDataset(layout, order_stream(layout.stream_sets()))
    loader = OnlineLoader(dataset, sampler=OnlineSampler(dataset, 1, 2, lambda: 2, images=4), batch_size=None)
    loader.look_ahead = 1  # rounds of two images in this process; the last has one beyond the end
    assert [[(item["position"], positions(item["upcoming"])) for item in pair] for pair in loader] == [
        [(9, [11, 13, 15]), (11, [13, 15])],
        [(13, [15]), (15, [])],
    ]


def test_processes_take_turns_in_as_many_rounds(root):
    layout = BusiLayout(str(root))
    dataset = OnlineDataset(layout, order_stream(layout.stream_sets()))
    ranks = [list(OnlineSampler(dataset, rank, 4, start=lambda: 1)) for rank in range(4)]
    assert ranks == [[4, 8, 12], [5, 9, 13], [6, 10, 14], [7, 11, 15]]
    assert {len(OnlineSampler(dataset, rank, 4)) for rank in range(4)} == {4}
    assert dataset[15] == {"position": 15, "set_name": "", "cases": []}
    pairs = [list(OnlineSampler(dataset, rank, 2, start=lambda: 2, images=4)) for rank in range(2)]
    assert pairs == [[[8, 10], [12, 14]], [[9, 11], [13, 15]]]
    assert len(OnlineSampler(dataset, 1, 2, images=4)) == 4
    assert [item["position"] for item in dataset[[11, 13, 15]]] == [11, 13, 15]


def test_one_class_of_several(root):
    both = busi(root, classes="category").stream_dataloader()
    assert all(item["reference"].any() for item in both)
    malignant = busi(root, classes="category", stream_class="malignant").stream_dataloader()
    assert all(item["reference"].any() == (item["set_name"] == "malignant") for item in malignant)
    assert {value for item in malignant for value in np.unique(item["reference"])} == {0, 1}
    with pytest.raises(UserError, match=r"'lesion' is no class of BUSI(.|\n)*benign, malignant"):
        busi(root, classes="category", stream_class="lesion").stream_dataloader()


@pytest.mark.parametrize(
    ("options", "text", "message"),
    [
        ({"stream_order": "list"}, None, "belong together"),
        ({}, "benign (1)", "belong together"),
        ({"stream_sets": ["benign", "normal"]}, None, r"no images of normal"),
        ({"stream_sets": ["benign", "benign"]}, None, r"a set twice"),
        ({"stream_sets": []}, None, r"none at all"),
        ({"stream_order": "list"}, "benign (1)\nbenign (77)", r"not in the stream: benign \(77\)"),
        ({"stream_order": "list"}, "benign (1)\nbenign (1)", r"names benign \(1\) twice"),
        ({"stream_order": "list"}, "", "names no image"),
    ],
)
def test_mistakes(root, tmp_path, options, text, message):
    if text is not None:
        (tmp_path / "walk.txt").write_text(text)
        options = {**options, "stream_list": str(tmp_path / "walk.txt")}
    with pytest.raises(UserError, match=message):
        busi(root, **options).stream_items()


@pytest.mark.parametrize("workers", [0, 1])
def test_damaged_image_is_one_message(tmp_path, workers):
    folder = write_busi(tmp_path, benign=2, malignant=0)
    truncate(folder / "benign" / "benign (2).png")
    with pytest.raises(UserError, match=r"benign \(2\)\.png cannot be read"):
        list(busi(folder, num_workers=workers).stream_dataloader())


class Walker(LightningModule):
    uses_stream = True

    def __init__(self, stop_at=None):
        super().__init__()
        self.automatic_optimization = False
        self.layer = torch.nn.Linear(1, 1)
        self.seen, self.tested, self.stop_at = [], [], stop_at

    def training_step(self, batch, batch_idx):
        if batch["position"] == self.stop_at:
            raise KeyError("power cut")
        self.seen.append((batch["position"], batch["cases"][0].case_id))
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(self.layer(torch.ones(1)).sum())
        optimizer.step()

    def test_step(self, batch, batch_idx):
        self.tested.append((batch["position"], batch["cases"][0].case_id))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def run(root, folder, stop_at=None, ckpt_path=None, **options):
    from lightning.pytorch.callbacks import ModelCheckpoint

    torch.manual_seed(0)
    model = Walker(stop_at)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[ModelCheckpoint(folder, filename="{step}", every_n_train_steps=4, save_top_k=-1)],
    )
    trainer.fit(model, busi(root, **options), ckpt_path=ckpt_path, weights_only=False)
    return model, trainer


def test_a_trainer_walks_once_and_resumes_in_the_middle(root, tmp_path):
    whole, trainer = run(root, tmp_path / "whole")
    assert whole.seen == [(p, case) for p, _, case in walked(busi(root).stream_dataloader())]
    trainer.test(whole, busi(root), verbose=False)
    assert whole.tested == whole.seen
    with pytest.raises(KeyError, match="power cut"):
        run(root, tmp_path / "cut", stop_at=10)
    resumed, _ = run(root, tmp_path / "cut", ckpt_path=tmp_path / "cut" / "step=8.ckpt", num_workers=1)
    assert resumed.seen == whole.seen[8:]
    torch.testing.assert_close(resumed.layer.weight, whole.layer.weight, rtol=0, atol=0)
    with pytest.raises(UserError, match="made with other training images"):
        run(root, tmp_path / "cut", ckpt_path=tmp_path / "cut" / "step=8.ckpt", stream_sets=["benign"])
