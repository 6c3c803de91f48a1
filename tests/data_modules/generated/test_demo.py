import hashlib
import multiprocessing

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import label

from data_modules import DemoDataModule
from data_modules.generated.ultrasound import FIRST, OTHERS, VERSION, ultrasound, write_demo_busi
from data_modules.layouts.busi import BusiLayout
from lightning_samseg.errors import UserError


def digest(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_demo_is_busi_in_layout_and_modes(tmp_path):
    folder = write_demo_busi(tmp_path, num_benign=12, num_malignant=2, num_normal=1, seed=0)
    layout = BusiLayout(str(tmp_path), include_normal=True, split="random")
    items = layout.items()
    assert [item.case_id for item in items][11:] == ["benign (12)", "malignant (1)", "malignant (2)", "normal (1)"]
    assert folder.name == "Dataset_BUSI_with_GT"
    second = [item for item in items if len(item.masks) == 2]
    assert second
    for item in items:
        image = layout.read_image(item)
        assert image.ndim == 3
        assert (image == image[..., :1]).all()
        assert [Image.open(path).mode for path in item.masks] == ["1"] * len(item.masks)
        height, width = image.shape[:2]
        assert 400 <= height <= 560 <= 700 >= width >= 460
        lesion = layout.read_label(item, (height, width))
        assert lesion.any() == (item.category != "normal")
        if item.category == "benign":
            assert label(lesion)[1] == len(item.masks)
        if lesion.any():  # darker than its surroundings on average, and of a sensible size
            assert 0.004 < lesion.mean() < 0.25
            assert image[lesion > 0].mean() < image[lesion == 0].mean()


def test_pictures_depend_on_seed_category_and_number_alone(tmp_path):
    few = write_demo_busi(tmp_path / "few", 2, 1, 0, seed=5)
    more = write_demo_busi(tmp_path / "more", 3, 1, 0, seed=5)
    assert digest(few).items() < digest(more).items()
    other = write_demo_busi(tmp_path / "other", 2, 1, 0, seed=6)
    assert not set(digest(few).values()) & set(digest(other).values())
    with pytest.raises(UserError, match="negative"):
        write_demo_busi(tmp_path / "none", -1)


def test_images_of_a_second_clinic_are_unlabelled_and_in_every_part(tmp_path):
    single = module(tmp_path, root=str(tmp_path / "one"))
    data = module(tmp_path, root=str(tmp_path / "two"), clinics=2)
    for each in (data, single):
        each.prepare_data()
    parts = (data.labelled_items, data.unlabelled_items, [*data.splits.val, *data.splits.test])
    assert [{number(item.case_id) % 2 for item in items} for items in parts] == [{1}, {0, 1}, {0, 1}]
    assert sorted(item.case_id for item in data.splits.train) == sorted(item.case_id for item in single.splits.train)
    one, two = digest(single.folder), digest(data.folder)
    assert {name: digest for name, digest in one.items() if number(name) % 2}.items() <= two.items()
    assert not {name: digest for name, digest in one.items() if number(name) % 2 == 0}.items() & two.items()
    assert module(tmp_path, clinics=2).folder != module(tmp_path).folder
    for narrow, wide in zip(FIRST, OTHERS, strict=True):
        assert wide[0] < narrow[0] < narrow[1] < wide[1]


def number(name):
    return int(name.split("(")[1].split(")")[0])


def test_no_threshold_finds_the_lesions():
    """The pictures are no giveaway: the best threshold that is the same for all images scores badly."""
    pictures = [ultrasound(np.random.default_rng((1, n)), "benign") for n in range(8)]

    def dice(image, masks, threshold):
        dark, lesion = image < threshold, np.any(masks, axis=0)
        return 2 * (dark & lesion).sum() / (dark.sum() + lesion.sum())

    assert max(np.mean([dice(*picture, t) for picture in pictures]) for t in range(10, 200, 10)) < 0.45


def module(tmp_path, **options):
    counts = {"num_benign": 7, "num_malignant": 5}
    return DemoDataModule(**{**counts, "image_size": 32, "num_labelled": 3, **options})


def test_demo_is_generated_once_into_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SAMSEG_CACHE", str(tmp_path))
    data = module(tmp_path)
    assert (data.num_classes, data.class_names) == (1, ("lesion",))
    assert list(tmp_path.iterdir()) == []
    data.prepare_data()
    (folder,) = (tmp_path / "demo").iterdir()
    assert folder.name == f"busi-v{VERSION}-7-5-0-seed0"
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    again = module(tmp_path)
    again.prepare_data()
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    assert [len(part) for part in again.splits] == [8, 2, 2, 0]
    batch = next(iter(again.test_dataloader()))
    assert batch["image"].shape == (2, 3, 32, 32)
    assert 0.99 < batch["image"].max() < 1.3
    assert module(tmp_path, demo_seed=1).folder != folder


def test_demo_at_a_place_of_ones_own(tmp_path):
    data = module(tmp_path, root=str(tmp_path / "here"))
    assert len(data.labelled_items) == 3
    assert (tmp_path / "here" / "Dataset_BUSI_with_GT" / "benign" / "benign (7)_mask.png").is_file()


def prepare(root):
    DemoDataModule(root, num_benign=5, num_malignant=5).prepare_data()


def test_two_processes_generate_one_demo(tmp_path):
    root = tmp_path / "demo"
    processes = [multiprocessing.get_context("fork").Process(target=prepare, args=(str(root),)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert list(tmp_path.iterdir()) == [root]
    assert digest(root) == digest(write_demo_busi(tmp_path / "reference", 5, 5).parent)
