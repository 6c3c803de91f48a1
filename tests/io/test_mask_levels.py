"""What each mask file holds, looked at once."""

import os

import nibabel
import numpy as np
import pytest
from PIL import Image

from lightning_samseg.io import mask_levels
from lightning_samseg.io.mask_levels import levels_of, look_at
from lightning_samseg.io.mask_rules import decide
from tests.io.mask_files import IDS, MASK, soft, write

pytestmark = pytest.mark.usefixtures("own_cache")


def test_values_areas_and_counts_of_a_file(tmp_path):
    values = np.zeros((10, 12), np.uint8)
    values[1:5, 1:6], values[7, 7], values[0, 11] = 255, 3, 240
    (path,) = write(tmp_path, [values])
    levels = levels_of(path)
    assert (levels.form, levels.dtype, levels.values, levels.distinct) == ("levels", "uint8", (3.0, 240.0, 255.0), 3)
    assert levels.flat == ((255.0, 2 * 3),)
    assert (levels.bright, levels.dim, levels.whole, levels.pieces, levels.ignored) == (21, 1, True, 3, False)
    assert levels_of(path, ignore=240)._replace(pieces=3) == levels._replace(
        values=(3.0, 255.0), distinct=2, bright=20, ignored=True
    )
    for shape in ((1, 1), (2, 9), (9, 2), (3, 3)):
        (path,) = write(tmp_path, [np.ones(shape, np.uint8)])
        assert levels_of(path).flat == (((1.0, 1),) if shape == (3, 3) else ())


def test_volumes_are_looked_at_slice_by_slice(tmp_path):
    label = np.zeros((9, 20, 30), np.float32)
    label[7] = soft(1, "f4")[10:30, 10:40]
    path = tmp_path / "v.nii.gz"
    nibabel.save(nibabel.Nifti1Image(label.T, np.eye(4)), path)
    rule, faults = decide(look_at([path]))
    assert (rule.kind, dict(rule.halves), faults) == ("soft", {"float32": 0.5}, {})
    nibabel.save(nibabel.Nifti1Image(np.rint(label.T * 2), np.eye(4)), path)
    assert decide(look_at([path])).rule.classes == 2


def test_every_file_is_looked_at_once_until_it_changes(tmp_path, monkeypatch):
    paths = write(tmp_path, [IDS, MASK.astype(np.uint8), soft(255, "u1")])
    (tmp_path / "damaged.png").write_text("no image")
    seen = []
    real = mask_levels.levels_of
    monkeypatch.setattr(mask_levels, "levels_of", lambda path, *args: seen.append(path.name) or real(path, *args))
    wanted = [*paths, tmp_path / "damaged.png", tmp_path / "absent.png"]
    first = look_at(wanted)
    assert (list(first), sorted(seen)) == (paths, ["damaged.png", "m0.png", "m1.png", "m2.png"])
    seen.clear()
    assert look_at(wanted) == first
    assert seen == ["damaged.png"]
    seen.clear()
    assert look_at(paths, ignore=255) != first
    assert len(seen) == 3
    seen.clear()
    Image.fromarray(IDS * np.uint8(2)).save(paths[0])
    os.utime(paths[1], ns=(1, 1))
    assert look_at(paths)[paths[0]].values == (2.0, 4.0, 6.0)
    assert sorted(seen) == ["m0.png", "m1.png"]


def test_a_damaged_or_unwritable_cache_does_no_harm(tmp_path, monkeypatch):
    paths = write(tmp_path, [IDS])
    first = look_at(paths)
    (store,) = (tmp_path / "cache" / "masks").iterdir()
    for content in ("", "[]", '{"m0.png": [[1], 2]}', store.read_text().replace("levels", "levels', '")[:-9]):
        store.write_text(content)
        assert look_at(paths) == first
    monkeypatch.setenv("SAMSEG_CACHE", str(paths[0]))  # a file where the folder should be
    assert look_at(paths) == first
