"""Polyps: PraNet's layout, its parts, and Kvasir-SEG and CVC-ClinicDB as released."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_modules import DemoStreamDataModule, PolypDataModule
from data_modules.generated.polyps import colonoscopy, write_demo_polyp
from data_modules.layouts.lists import read_list
from data_modules.layouts.polyp import LISTS, SETS, PolypLayout, format_list, make_lists
from lightning_samseg.errors import UserError
from tests.fakes import write_pair, write_polyp

REAL = Path(__file__).parents[2].parent / "shared" / "real_data" / "polyp"
ALL = dict.fromkeys(reversed(SETS), 2)


def names(items):
    return [item.case_id for item in items]


def test_pranet_folders_are_the_split(tmp_path):
    layout = PolypLayout(str(write_polyp(tmp_path, train=40, test=ALL)))
    splits = layout.splits()
    assert [len(part) for part in splits] == [38, 2, 10, 0]
    assert names(splits.test)[::2] == [
        "CVC-ClinicDB/1",
        "CVC-ColonDB/1",
        "ETIS-LaribPolypDB/1",
        f"Kvasir/cju9{0:021d}",
        "CVC-300/149",
    ]
    assert {item.image.parts[-3] for item in splits.train + splits.val} == {"TrainDataset"}
    kinds = Counter(item.category for item in splits.train)
    assert set(kinds) == {"Kvasir", "CVC-ClinicDB"}
    assert splits == PolypLayout(str(tmp_path), "pranet").splits()
    sizes = [len(part) for part in PolypLayout(str(tmp_path), "random").splits()]
    assert sizes != [38, 2, 10, 0]
    assert sum(sizes) == 50
    assert "CVC-300 2 of 60" in layout.notes()[0]


def test_frames_of_one_sequence_stay_on_one_side(tmp_path):
    layout = PolypLayout(str(write_polyp(tmp_path, train=120)))
    sides = {}
    for part, items in zip("tve", layout.splits()[:3], strict=True):
        for item in items:
            if item.group:
                sides.setdefault(item.group, set()).add(part)
    assert sides.keys() == {f"CVC-ClinicDB sequence {number}" for number in (1, 2, 3, 4, 5, 6, 7)}  # frames 21..139
    assert all(len(parts) == 1 for parts in sides.values())
    (first,) = (item for item in layout.items() if item.case_id == "TrainDataset/51")
    assert first.group == "CVC-ClinicDB sequence 3"


def test_stream_visits_the_test_sets_in_the_order_of_the_paper(tmp_path):
    data = PolypDataModule(str(write_polyp(tmp_path, train=4, test=ALL)), image_size=32)
    assert [place.set_name for place in data.stream_items()][::2] == list(SETS)
    item = next(iter(data.stream_dataloader()))
    assert (item["set_name"], item["cases"][0].case_id) == ("CVC-ClinicDB", "CVC-ClinicDB/1")
    assert item["reference"].sum() == 10 * 12
    order = PolypDataModule(str(tmp_path), image_size=32, stream_sets=["Kvasir", "CVC-300"]).stream_items()
    assert [place.set_name for place in order] == ["Kvasir"] * 2 + ["CVC-300"] * 2


def test_the_test_part_of_a_polyp_stream(tmp_path):
    """PraNet's is the stream itself; of a random split, it is what nothing was trained on."""
    whole = PolypLayout(str(write_polyp(tmp_path, train=10, test=ALL)))
    assert list(whole.stream_sets("test").items()) == list(whole.stream_sets().items())
    layout = PolypLayout(str(tmp_path), "random")
    tested = layout.stream_sets("test")
    assert list(tested) == [name for name in SETS if name in tested]
    assert sorted(names(item for items in tested.values() for item in items)) == sorted(names(layout.splits().test))


def test_training_images_alone_are_a_stream_and_a_random_split(tmp_path):
    layout = PolypLayout(str(write_polyp(tmp_path, train=20)))
    assert list(layout.stream_sets()) == ["TrainDataset"]
    assert all(layout.splits()[:3])
    with pytest.raises(UserError, match="needs TrainDataset and TestDataset"):
        PolypLayout(str(tmp_path), "pranet").splits()
    with pytest.raises(UserError, match=r"none to validate(.|\n)*found: 4"):
        PolypLayout(str(write_polyp(tmp_path / "few", train=4, test=ALL))).splits()


@pytest.mark.parametrize("inside", ["", "Kvasir-SEG", "Kvasir-SEG/Kvasir-SEG", "Kvasir"])
def test_kvasir_as_released(tmp_path, inside):
    """Masks are JPEG: grey levels around the edges are cut at 127."""
    folder = tmp_path / "Kvasir-SEG" if inside == "" else tmp_path / inside
    for number in range(10):
        stem = f"cju{number:022d}"
        write_pair(folder / "images" / f"{stem}.jpg", folder / "masks" / f"{stem}.jpg", number)
    layout = PolypLayout(str(folder if inside == "" else tmp_path))
    assert {name: len(items) for name, items in layout.stream_sets().items()} == {"Kvasir": 10}
    item = layout.items()[0]
    assert item.case_id == f"Kvasir/cju{0:022d}"
    assert len(np.unique(np.asarray(Image.open(item.masks[0])))) > 2
    expected = np.zeros((40, 48), np.uint8)
    expected[10:20, 12:24] = 1
    np.testing.assert_array_equal(layout.read_label(item, (40, 48)), expected)
    assert [len(part) for part in layout.splits()] == [7, 1, 2, 0]


@pytest.mark.parametrize(("inside", "ending"), [("", "tif"), ("", "png"), ("PNG", "png"), ("TIF", "tif")])
def test_clinicdb_as_released(tmp_path, inside, ending):
    folder = tmp_path / "CVC-ClinicDB" / inside
    for number in range(1, 31):
        pair = (folder / "Original" / f"{number}.{ending}", folder / "Ground Truth" / f"{number}.{ending}")
        write_pair(*pair, number)
    for root in (tmp_path, tmp_path / "CVC-ClinicDB") if inside == "" else (tmp_path,):
        layout = PolypLayout(str(root))
        assert names(layout.items())[:3] == ["CVC-ClinicDB/1", "CVC-ClinicDB/2", "CVC-ClinicDB/3"]
        assert {item.group for item in layout.items()} == {"CVC-ClinicDB sequence 1", "CVC-ClinicDB sequence 2"}
        assert layout.read_label(layout.items()[0], (40, 48)).sum() == 120


def test_test_dataset_itself_as_root(tmp_path):
    write_polyp(tmp_path, test=ALL)
    layout = PolypLayout(str(tmp_path / "TestDataset"))
    assert list(layout.stream_sets()) == list(SETS)
    assert layout.notes() == []


def test_mistakes(tmp_path):
    with pytest.raises(UserError, match=r"no data folder .* for polyp"):
        PolypLayout(str(tmp_path / "absent")).splits()
    (tmp_path / "photos").mkdir()
    with pytest.raises(UserError, match=r"No polyp images found(.|\n)*found: photos"):
        PolypLayout(str(tmp_path)).items()
    write_polyp(tmp_path, train=4, test=ALL)
    kvasir = tmp_path / "TestDataset" / "Kvasir"
    (kvasir / "masks").rename(kvasir / "labels")
    with pytest.raises(UserError, match=r"Kvasir has no folder of masks(.|\n)*labels"):
        PolypLayout(str(tmp_path)).splits()
    (kvasir / "labels").rename(kvasir / "masks")
    mask = tmp_path / "TestDataset" / "CVC-300" / "masks" / "149.png"
    mask.rename(mask.with_name("999.png"))
    with pytest.raises(UserError, match=r"images/149\.png has no mask"):
        PolypLayout(str(tmp_path)).splits()
    mask.with_name("999.png").rename(mask)
    (tmp_path / "TrainDataset" / "image" / "21.jpg").write_bytes(b"")
    with pytest.raises(UserError, match="have the same name"):
        PolypLayout(str(tmp_path)).splits()


def test_committed_lists():
    lists = make_lists()
    assert {name: len(case_ids) for name, case_ids in lists.items()} == {
        name: SETS[name] for name in ("CVC-ColonDB", "ETIS-LaribPolypDB", "CVC-300")
    }
    for name, case_ids in lists.items():
        assert (LISTS / f"{name}.txt").read_text(encoding="utf-8") == format_list(name, case_ids)
        assert read_list(LISTS / f"{name}.txt") == case_ids


def test_demo_pictures(tmp_path):
    """Every picture depends on seed, set and number alone, and no single channel's threshold finds the polyps."""
    few, more = (write_demo_polyp(tmp_path / str(n), per_set=n, train=1, seed=3) for n in (1, 2))
    written = {str(path.relative_to(few)): path.read_bytes() for path in few.rglob("*.png")}
    assert len(written) == 12
    assert written.items() < {str(path.relative_to(more)): path.read_bytes() for path in more.rglob("*.png")}.items()
    layout = PolypLayout(str(more))
    assert [len(items) for items in layout.stream_sets().values()] == [2] * 5
    pictures = [colonoscopy(np.random.default_rng((1, n)), name) for n, name in enumerate(SETS)]

    def dice(found, mask):
        return 2 * (found & mask).sum() / (found.sum() + mask.sum())

    best = [
        np.mean([dice((image[..., channel] < level) == dark, mask) for image, mask in pictures])
        for channel in range(3)
        for level in range(20, 240, 20)
        for dark in (True, False)
    ]
    assert max(best) < 0.45
    assert all(0.004 < mask.mean() < 0.3 for _, mask in pictures)
    with pytest.raises(UserError, match="1 to 60 images"):
        write_demo_polyp(tmp_path / "none", per_set=0)


def test_demo_stream_is_generated_once_into_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SAMSEG_CACHE", str(tmp_path))
    data = DemoStreamDataModule(num_per_set=1, num_train=3, image_size=32)
    assert list(tmp_path.iterdir()) == []
    assert [place.set_name for place in data.stream_items()] == list(SETS)
    (folder,) = (tmp_path / "demo").iterdir()
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.png")}
    again = DemoStreamDataModule(num_per_set=1, num_train=3, image_size=32)
    assert len(list(again.stream_dataloader())) == 5
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.png")} == before
    assert len(again.stream_items("shuffled")) == 5


@pytest.mark.skipif(not REAL.is_dir(), reason="needs the real images")
def test_real_polyps():
    data = PolypDataModule(str(REAL), image_size=64)
    assert [len(part) for part in data.splits] == [69, 9, 20, 0]
    items = [item for _, item in zip(range(12), data.stream_dataloader(), strict=False)]
    assert {item["set_name"] for item in items} == {"Kvasir"}
    for item in items:
        assert 0.001 < item["reference"].mean() < 0.8
        assert set(np.unique(item["reference"])) == {0, 1}
