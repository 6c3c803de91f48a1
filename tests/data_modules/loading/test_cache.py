"""Decoded images on disk: the same arrays as without, whatever happens to files, entries and processes."""

import multiprocessing
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from data_modules import BusiDataModule, PolypDataModule
from data_modules.layouts.base import Item, Layout
from data_modules.layouts.busi import BusiLayout
from data_modules.layouts.folder import FolderLayout
from data_modules.loading.cache import DecodedCache, clear, size_of
from lightning_samseg.errors import UserError
from lightning_samseg.io.images import read_image, to_grey, write_image
from tests.fakes import write_busi, write_folder, write_polyp, write_retouch


class Counting(Layout):
    """Counts how often files are decoded."""

    def __init__(self):
        self.problems = []  # no plain value: no part of the key

    def read_image(self, item):
        self.problems.append(item)
        return super().read_image(item)


def write_item(folder, name="a", size=(30, 40)):
    rng = np.random.default_rng(list(name.encode()))
    image, mask = folder / f"{name}.png", folder / f"{name}_mask.png"
    write_image(image, rng.integers(0, 256, (*size, 3), dtype=np.uint8))
    write_image(mask, rng.random(size) > 0.5)
    return Item(name, image, (mask,))


def always(layout, folder, limit=1.0):
    return DecodedCache(layout, limit, folder / "decoded", slow=0)


def entries(folder):
    return sorted((folder / "decoded").glob("*/*"))


def test_the_second_read_decodes_nothing(tmp_path):
    item, layout = write_item(tmp_path), Counting()
    for labelled, grey in ((True, False), (True, True), (False, False)):
        first = always(layout, tmp_path).read(item, labelled, grey)
        decoded = len(layout.problems)
        second = always(layout, tmp_path).read(item, labelled, grey)
        assert len(layout.problems) == decoded
        pixels = read_image(item.image)
        for read in (first, second):
            np.testing.assert_array_equal(read[0], to_grey(pixels) if grey else pixels)
            assert read[0].dtype == np.uint8
            assert (read[1] is None) == (not labelled)
            if labelled:
                np.testing.assert_array_equal(read[1], layout.read_label(item, (30, 40)))
    assert len(entries(tmp_path)) == 3
    assert size_of(tmp_path / "decoded")[0] == 3


def test_quick_sources_and_a_limit_of_0_leave_nothing(tmp_path):
    item = write_item(tmp_path)
    DecodedCache(Layout(), 1, tmp_path / "decoded", slow=10).read(item, True)
    DecodedCache(Layout(), 0, tmp_path / "decoded", slow=0).read(item, True)
    assert not (tmp_path / "decoded").exists()


def test_without_label_no_mask_is_opened(tmp_path):
    item = write_item(tmp_path)
    item.masks[0].unlink()
    always(Layout(), tmp_path).read(item, labelled=False)
    assert len(entries(tmp_path)) == 1
    with pytest.raises(UserError, match="no image file"):
        always(Layout(), tmp_path).read(item, labelled=True)


def test_a_key_stands_for_bytes_and_for_what_is_done_with_them(tmp_path):
    item = write_item(tmp_path)
    cache = always(Layout(), tmp_path)
    before = cache.path_of(item, True)
    assert cache.path_of(item._replace(case_id="other name"), True) == before
    moved = item._replace(image=Path(shutil.copy(item.image, tmp_path / "moved.png")))
    assert cache.path_of(moved, True) == before  # bytes, not names
    others = {
        cache.path_of(item, False),
        cache.path_of(item, True, grey=True),
        cache.path_of(item._replace(class_id=2), True),
        cache.path_of(item._replace(slice_index=1), True),
        always(Counting(), tmp_path).path_of(item, True),  # another class
        always(FolderLayout(str(write_folder(tmp_path / "own", ["a"])), masks="binary"), tmp_path).path_of(item, True),
    }
    write_image(item.masks[0], np.ones((30, 40), bool))
    others.add(cache.path_of(item, True))
    assert len(others - {before, None}) == 7


def test_new_code_of_a_layout_is_another_key(tmp_path, monkeypatch):
    item, keys = write_item(tmp_path), set()
    monkeypatch.syspath_prepend(tmp_path)
    for number in (1, 2):
        text = f"from data_modules.layouts.base import Layout\nclass Own(Layout):\n    x = {number}\n"
        (tmp_path / "own_layout.py").write_text(text)
        monkeypatch.delitem(sys.modules, "own_layout", raising=False)
        from own_layout import Own  # type: ignore[import-not-found]

        keys.add(always(Own(), tmp_path).path_of(item, True))
    assert len(keys) == 2


def test_a_changed_image_is_read_anew(tmp_path):
    item, layout = write_item(tmp_path), Layout()
    cache = always(layout, tmp_path)
    cache.read(item, True)
    write_image(item.image, np.full((30, 40), 7, np.uint8))
    pixels, _ = cache.read(item, True)  # the same process
    assert (pixels == 7).all()


def damage_end(path):
    path.write_bytes(path.read_bytes()[:-500])


def damage_pixels(path):
    content = bytearray(path.read_bytes())
    place = content.find(read_image(path.parents[2] / "a.png").tobytes())
    assert place > 0
    content[place + 1000] ^= 1  # one bit of one pixel
    path.write_bytes(content)


def damage_all(path):
    path.write_bytes(b"no HDF5")


def damage_names(path):
    path.unlink()
    import h5py

    with h5py.File(path, "w") as file:
        file["pixels"] = np.zeros((30, 40), np.uint8)


@pytest.mark.parametrize("damage", [damage_end, damage_pixels, damage_all, damage_names])
def test_a_damaged_entry_is_made_again(tmp_path, damage):
    item, layout = write_item(tmp_path), Counting()
    sound = always(layout, tmp_path).read(item, True)
    (entry,) = entries(tmp_path)
    damage(entry)
    for decoded in (2, 2):  # made once more, then read
        read = always(layout, tmp_path).read(item, True)
        np.testing.assert_array_equal(read[0], sound[0])
        np.testing.assert_array_equal(read[1], sound[1])
        assert len(layout.problems) == decoded


def test_the_limit_holds(tmp_path):
    items = [write_item(tmp_path, name, (100, 100)) for name in "abcdef"]
    always(Layout(), tmp_path).read(items[0], True)
    cache = always(Layout(), tmp_path, limit=3.5 * size_of(tmp_path / "decoded")[1] / 1e9)
    for item in items[:3]:
        cache.read(item, True)
    with pytest.warns(UserWarning, match=r"no more decoded images are kept.*data cache --clear"):
        cache.read(items[3], True)
    for item in items[4:]:
        cache.read(item, True)  # said once
    assert len(entries(tmp_path)) == 3
    clear(tmp_path / "decoded")
    assert size_of(tmp_path / "decoded") == (0, 0)


def test_a_folder_that_cannot_be_written_is_no_obstacle(tmp_path):
    item = write_item(tmp_path)
    (tmp_path / "decoded").write_text("a file")
    cache = always(Layout(), tmp_path)
    with pytest.warns(UserWarning, match="decoded images are not kept"):
        pixels, _ = cache.read(item, True)
    np.testing.assert_array_equal(pixels, read_image(item.image))
    cache.read(item, True)  # no second warning, no error


def test_headers_without_pixels_are_never_kept(tmp_path):
    from data_modules.layouts.retouch import RetouchLayout

    write_retouch(tmp_path, volumes=1, b_scans=2)
    layout = RetouchLayout(str(tmp_path))
    item = layout.items()[0]
    assert item.image.suffix == ".mhd"
    always(layout, tmp_path).read(item, True)
    assert not entries(tmp_path)


def read_all(folder, names, out):
    cache = always(Layout(), folder)
    sums = []
    for _ in range(3):
        for name in names:
            item = Item(name, folder / f"{name}.png", (folder / f"{name}_mask.png",))
            pixels, label = cache.read(item, True)
            sums.append((int(pixels.sum()), int(label.sum())))
    out.put(sums)


def test_several_processes_at_once(tmp_path):
    names = [f"n{number}" for number in range(12)]
    items = [write_item(tmp_path, name) for name in names]
    expected = [(int(read_image(i.image).sum()), int(read_image(i.masks[0]).astype(bool).sum())) for i in items] * 3
    context = multiprocessing.get_context("fork")
    out = context.Queue()
    processes = [context.Process(target=read_all, args=(tmp_path, names, out)) for _ in range(4)]
    for process in processes:
        process.start()
    assert [out.get(timeout=300) for _ in processes] == [expected] * 4
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert len(entries(tmp_path)) == len(names)
    assert not list(tmp_path.rglob("*.part*"))


@pytest.mark.parametrize("kind", ["busi", "polyp"])
def test_batches_are_the_same_with_and_without(tmp_path, monkeypatch, kind):
    monkeypatch.setenv("SAMSEG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(DecodedCache.__init__, "__defaults__", (None, 0.0))
    options = {"image_size": 32, "grey": kind == "busi"}
    if kind == "busi":
        root, module, options["split"] = write_busi(tmp_path), BusiDataModule, "random"
    else:
        root, module = write_polyp(tmp_path, train=30, test={"CVC-300": 2, "Kvasir": 2}), PolypDataModule
    plain = list(module(str(root), cache_gb=0, **options).test_dataloader())
    assert not (tmp_path / "cache" / "decoded").exists()
    for workers in (0, 2, 0):
        cached = list(module(str(root), num_workers=workers, **options).test_dataloader())
        assert size_of(tmp_path / "cache" / "decoded")[0] == sum(len(batch["cases"]) for batch in plain)
        for one, other in zip(plain, cached, strict=True):
            assert one["cases"] == other["cases"]
            assert (one["image"] == other["image"]).all()
            assert (one["mask"] == other["mask"]).all()
            for key in ("reference", "original"):
                assert all(map(np.array_equal, one[key], other[key]))


def test_entries_that_another_process_has_just_removed_are_not_counted(tmp_path):
    always(Layout(), tmp_path).read(write_item(tmp_path), True)
    (entry,) = entries(tmp_path)
    (entry.parent / ".b.0123456789ab.part.h5").symlink_to(tmp_path / "gone")  # listed, but no longer there
    assert size_of(tmp_path / "decoded") == (1, entry.stat().st_size)


def test_what_a_layout_remembers_changes_no_key(tmp_path):
    root = write_folder(tmp_path / "own", [f"a{n}" for n in range(10)])
    first, second = FolderLayout(str(root)), FolderLayout(str(root))
    item = first.items()[0]
    assert (second.sliced, second.class_names) == (False, ("foreground",))
    assert always(first, tmp_path).path_of(item, True) == always(second, tmp_path).path_of(item, True)
    other = FolderLayout(str(root), scale_volumes=True)
    assert always(first, tmp_path).path_of(item, True) != always(other, tmp_path).path_of(item, True)


def test_merged_masks_and_classes_are_kept_apart(tmp_path):
    root = write_busi(tmp_path)
    by_class = {}
    for classes in ("lesion", "category"):
        layout = BusiLayout(str(root), classes=classes, split="random")
        item = next(item for item in layout.items() if item.category == "malignant")
        for _ in range(2):
            by_class[classes] = always(layout, tmp_path).read(item, True)[1]
        assert set(np.unique(by_class[classes])) == {0, 1 if classes == "lesion" else 2}


def test_indexed_masks_keep_their_values(tmp_path):
    root = write_folder(tmp_path / "own", [f"a{n}" for n in range(10)], values=(3,))
    for masks, value in (("binary", 1), ("indexed", 3)):
        layout = FolderLayout(str(root), masks=masks)
        item = layout.items()[0]
        for _ in range(2):
            _, label = always(layout, tmp_path).read(item, True)
            np.testing.assert_array_equal(label, layout.read_label(item, label.shape))
            assert label.max() == value
