"""ACDC in SSL4MIS's layout: lists, slices to train on, whole volumes to evaluate, and what can be wrong with files."""

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from scipy.ndimage import zoom

from data_modules import AcdcDataModule
from data_modules.layouts.acdc import LISTS, AcdcLayout, patient_of
from data_modules.layouts.lists import read_list
from lightning_samseg.errors import UserError
from lightning_samseg.metrics import CaseScores
from tests.fakes import acdc_volume, truncate, write_acdc, write_h5

REAL = Path(__file__).parents[2].parent / "shared" / "real_data" / "acdc"
TRAIN = {"patient099": 4, "patient038": 3, "patient050": 2, "patient100": 2}
VAL, TEST = {"patient028": 3, "patient085": 4}, {"patient011": 2, "patient013": 5}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_acdc(tmp_path_factory.mktemp("acdc"), TRAIN, VAL, TEST)


@pytest.fixture
def own(tmp_path):
    """A data set that a test may spoil."""
    return write_acdc(tmp_path / "acdc", {"patient099": 2, "patient038": 2}, {"patient028": 2}, {"patient011": 2})


def acdc(root, **options):
    options = {"split": "files", "image_size": 32, "augment": "none", **options}
    return AcdcDataModule(str(root), **options)


@pytest.fixture
def said(monkeypatch):
    """What is said beside the counts."""
    messages = []
    monkeypatch.setattr("data_modules.acdc.rank_zero_info", messages.append)
    return messages


def test_committed_lists_are_those_of_ssl4mis():
    train, val, test = (read_list(LISTS / f"{name}.list") for name in ("train_slices", "val", "test"))
    assert (len(train), len(val), len(test)) == (1312, 20, 40)
    assert len({*train, *val, *test}) == 1372
    patients = [set(map(patient_of, names)) for names in (train, val, test)]
    assert [len(part) for part in patients] == [70, 10, 20]
    assert set.union(*patients) == {f"patient{number:03d}" for number in range(1, 101)}
    expected = "002 019 028 030 039 045 078 082 085 087"
    assert sorted(patients[1]) == [f"patient{number}" for number in expected.split()]
    expected = "001 007 008 011 013 022 024 033 052 059 064 065 066 068 075 080 081 083 084 093"
    assert sorted(patients[2]) == [f"patient{number}" for number in expected.split()]
    slices = {}
    for name in train:  # every frame is complete, numbered from 1
        frame, _, number = name.rpartition("_slice_")
        slices.setdefault(frame, []).append(int(number))
    assert len(slices) == 140
    assert all(sorted(numbers) == list(range(1, len(numbers) + 1)) for numbers in slices.values())


def test_labelled_patients_of_the_committed_list():
    layout = AcdcLayout("nowhere", "committed")
    assert [layout.count_slices(n) for n in (1, 2, 3, 4, 5, 6, 7, 14, 70)] == [32, 48, 68, 84, 102, 122, 136, 256, 1312]
    order = list(dict.fromkeys(map(patient_of, read_list(LISTS / "train_slices.list"))))
    assert order[:7] == [f"patient{number}" for number in ("099", "038", "050", "100", "058", "021", "049")]


def test_labelled_patients_nest_and_leave_the_rest_unlabelled(root):
    lines = read_list(root / "train_slices.list")
    for patients, slices in ((1, 8), (2, 14), (3, 18), (None, 22)):
        data = acdc(root, labelled_patients=patients)
        assert [item.case_id for item in data.labelled_items] == lines[:slices]
        assert [item.case_id for item in data.unlabelled_items] == lines[slices:]
    assert len(acdc(root, num_labelled=5).labelled_items) == 5


def test_list_that_mixes_patients_is_grouped(own):
    lines = read_list(own / "train_slices.list")
    (own / "train_slices.list").write_text("\n".join(lines[::-1][1::2] + lines[::-1][::2]))
    data = acdc(own, labelled_patients=1)
    assert {item.group for item in data.labelled_items} == {"patient038"}
    assert {item.group for item in data.unlabelled_items} == {"patient099"}


def test_slices_are_read_as_stored(root):
    data = acdc(root, labelled_patients=1)
    item = data.labelled_items[1]
    assert item.case_id == "patient099_frame01_slice_3"
    image, label = acdc_volume(4, seed=991)
    np.testing.assert_allclose(data.layout.read_image(item), image[2] / 1000, rtol=1e-6)
    np.testing.assert_array_equal(data.layout.read_label(item, (24, 20)), label[2])
    assert data.view.normalised(data.layout.read_image(item)).max() < 1  # the volume's maximum is in another slice
    assert acdc(root, normalise="minmax").view.normalised(data.layout.read_image(item)).max() == 1


def test_training_sample_equals_the_authors_geometry(root):
    data = acdc(root, labelled_patients=1, geometry="corner_aligned")
    data.setup("fit")
    dataset = data.val_dataloader().dataset
    dataset.items, dataset.contents = data.labelled_items, "labelled"
    batch = dataset[[(0, 0)]]
    image, label = acdc_volume(4, seed=991)
    np.testing.assert_allclose(
        batch["image"][0, 0], zoom(image[3] / np.float32(1000), (32 / 24, 32 / 20), order=3), atol=1e-5
    )
    np.testing.assert_array_equal(batch["mask"][0], zoom(label[3], (32 / 24, 32 / 20), order=0))
    assert (batch["image"][0] == batch["image"][0, :1]).all()


@pytest.mark.parametrize("num_workers", [0, 2])
def test_volumes_are_evaluated_whole(root, num_workers):
    data = acdc(root, eval_batch_size=4, num_workers=num_workers)
    scores = CaseScores(3, "cpc_sam")
    sizes = []
    for batch in data.test_dataloader():
        sizes.append(len(batch["cases"]))
        scores.update(batch["cases"], batch["reference"], batch["reference"])
        for case, reference, original in zip(batch["cases"], batch["reference"], batch["original"], strict=True):
            _, label = acdc_volume(case.num_slices, seed=int(case.case_id[7:10]) * 10 + int(case.case_id[-1]))
            np.testing.assert_array_equal(reference, label[case.slice_index])
            assert (original.shape, case.original_size) == ((24, 20, 3), (24, 20))
    assert sizes == [4, 4, 4, 2]  # batches do not stop at the end of a volume
    rows = scores.compute().rows
    assert [(row.case_id, row.class_id) for row in rows[:4]] == [
        *(("patient011_frame01", c) for c in (1, 2, 3)),
        ("patient011_frame02", 1),
    ]
    assert len(rows) == 12
    assert {(row.dsc, row.hd95, row.unit) for row in rows} == {(1.0, 0.0, "voxel")}


def test_slices_of_a_volume_stay_on_one_rank(root):
    data = acdc(root)
    loader = data.val_dataloader()
    ranks = []
    for rank in (0, 1):
        sampler = type(loader.sampler)(loader.dataset, [i.case_id for i in data.splits.val], 2, rank, 2)
        ranks.append([data.splits.val[index].case_id for keys in sampler for index, _ in keys])
    assert set(ranks[0]) == {"patient028_frame01", "patient085_frame01"}
    assert not set(ranks[0]) & set(ranks[1])
    assert len(ranks[0]) == len(ranks[1]) == 7


@pytest.mark.parametrize("how", ["dataset", "attribute"])
def test_spacing_is_read_where_it_is_stored(own, how):
    with h5py.File(own / "data" / "patient011_frame01.h5", "r+") as file:
        (file if how == "dataset" else file.attrs)["spacing"] = np.array([10.0, 1.5, 1.25])
    cases = [case for batch in acdc(own).test_dataloader() for case in batch["cases"]]
    assert [case.spacing for case in cases] == [(10.0, 1.5, 1.25)] * 2 + [None] * 2
    assert [(case.slice_index, case.num_slices) for case in cases] == [(0, 2), (1, 2)] * 2


def test_auto_takes_the_lists_of_the_root_and_else_the_committed_ones(own):
    assert AcdcLayout(str(own)).lists == own
    (own / "train_slices.list").unlink()
    assert AcdcLayout(str(own)).lists == LISTS
    assert AcdcLayout(str(own), "files").lists == own


def test_without_test_list_the_validation_volumes_are_tested(own, said):
    (own / "test.list").unlink()
    splits = acdc(own).splits
    assert splits.test == splits.val
    assert len(said) == 1
    assert said[0].startswith(f"warning: no test.list in {own}")


def test_other_lists_than_the_committed_ones_are_pointed_out(own, said, monkeypatch):
    data = acdc(own)
    data.setup("fit")
    data.setup("test")
    assert [message[:30] for message in said] == [f"warning: the lists in {own}"[:30]]
    monkeypatch.setattr("data_modules.acdc.LISTS", own)
    acdc(own).setup("fit")
    assert len(said) == 1


def spoil(path, **replaced):
    with h5py.File(path) as file:
        datasets = {key: file[key][()] for key in file}
    path.unlink()
    write_h5(path, **{key: array for key, array in {**datasets, **replaced}.items() if array is not None})


def read_all(data):
    for item in (*data.splits.train, *data.splits.test):
        data.layout.read_label(item, data.layout.read_image(item).shape)


SLICE, VOLUME = "slices/patient099_frame01_slice_2.h5", "patient011_frame01.h5"
IMAGE, LABEL = np.full((2, 8, 8), 0.5, np.float32), np.zeros((2, 8, 8), np.uint8)


@pytest.mark.parametrize(
    ("file", "replaced", "message"),
    [
        (SLICE, {"label": None}, "no dataset 'label'"),
        (VOLUME, {"label": None}, "no dataset 'label'"),
        (VOLUME, {"image": None}, "no dataset 'image'"),
        (SLICE, {"label": np.full((24, 20), 4, np.uint8)}, "no class"),
        (SLICE, {"label": np.full((24, 20), 0.5)}, "no class"),
        (SLICE, {"label": np.zeros((20, 24), np.uint8)}, "another size"),
        (VOLUME, {"label": LABEL[0]}, "not a volume"),
        (VOLUME, {"label": LABEL[:1], "image": IMAGE}, "not a volume"),
        (VOLUME, {"image": IMAGE[:1], "label": LABEL[:1]}, "at least 2 slices"),
        (VOLUME, {"image": IMAGE[0], "label": LABEL[0]}, "at least 2 slices"),
        (SLICE, {"image": IMAGE, "label": LABEL}, "not a slice"),
        (SLICE, {"image": np.full((24, 20), 300.0)}, "not normalised"),
        (SLICE, {"image": np.full((24, 20), np.nan, np.float32)}, "not normalised"),
        (VOLUME, {"spacing": np.array([10.0, 0.0, 1.0])}, "not a voxel size"),
    ],
)
def test_malformed_file(own, file, replaced, message):
    path = own / "data" / file
    spoil(path, **replaced)
    with pytest.raises(UserError, match=message) as raised:
        read_all(acdc(own))
    assert str(path) in str(raised.value)


@pytest.mark.parametrize("file", [SLICE, VOLUME])
def test_damaged_file(own, file):
    truncate(own / "data" / file)
    with pytest.raises(UserError, match="cannot be read") as raised:
        read_all(acdc(own))
    assert file in str(raised.value)


def test_lists_that_do_not_fit(own):
    (own / "data" / SLICE).unlink()
    (own / "data" / VOLUME).unlink()
    with pytest.raises(UserError, match="2 of the files") as raised:
        acdc(own).setup("fit")
    assert VOLUME in str(raised.value)
    with pytest.raises(UserError, match="of the files that the lists"):
        acdc(own, split="committed").setup("fit")
    (own / "val.list").write_text("patient099_frame01\n")
    with pytest.raises(UserError, match=r"patient099 is in train_slices\.list and in val\.list"):
        acdc(own).setup("fit")
    (own / "val.list").write_text("patient028_frame01\n" * 2)
    with pytest.raises(UserError, match="patient028_frame01 twice"):
        acdc(own).setup("fit")
    (own / "val.list").unlink()
    with pytest.raises(UserError, match="There is no list"):
        acdc(own).setup("fit")


def test_arguments_that_do_not_fit(root, tmp_path):
    with pytest.raises(UserError, match="There is no data folder"):
        acdc(tmp_path / "absent").setup("fit")
    with pytest.raises(UserError, match="exclude each other"):
        acdc(root, labelled_patients=1, num_labelled=3)
    for patients in (0, 5):
        with pytest.raises(UserError, match=f"{patients} labelled patients were asked for"):
            acdc(root, labelled_patients=patients).setup("fit")


@pytest.mark.skipif(not REAL.is_dir(), reason="needs the shared images")
def test_real_slices_and_volumes():
    data = AcdcDataModule(str(REAL), labelled_patients=1, image_size=64, geometry="corner_aligned", eval_batch_size=16)
    assert (len(data.labelled_items), len(data.unlabelled_items)) == (32, 224)
    assert read_list(LISTS / "train_slices.list")[:256] == read_list(REAL / "train_slices.list")
    assert read_list(LISTS / "val.list")[:10] == read_list(REAL / "val.list")
    assert AcdcDataModule(str(REAL), labelled_patients=7).layout.count_slices(7) == 136
    cases = {}
    for batch in data.val_dataloader():
        assert batch["image"].min() > -0.2
        assert batch["image"].max() < 1.2
        for case, mask, reference in zip(batch["cases"], batch["mask"], batch["reference"], strict=True):
            cases.setdefault(case.case_id, []).append(case.slice_index)
            shares = [np.bincount(np.ravel(part), minlength=4) / part.size for part in (mask.numpy(), reference)]
            np.testing.assert_allclose(*shares, atol=0.02)
            assert torch.equal(mask.unique(), mask.unique().clip(0, 3))
    assert sorted(cases) == sorted(read_list(REAL / "val.list"))
    assert all(indices == list(range(len(indices))) for indices in cases.values())
