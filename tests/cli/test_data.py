"""``data``: each verb through ``main``, and from ACDC's NIfTI files as released to a data set that trains."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest

from data_modules import AcdcDataModule, FolderDataModule, RetouchDataModule
from data_modules.layouts.acdc import LISTS
from data_modules.layouts.acdc_native import find_frames, read_frame
from data_modules.layouts.folder import FolderLayout
from data_modules.layouts.lists import read_list
from data_modules.loading.cache import DecodedCache
from lightning_samseg.cli import data as data_cli
from lightning_samseg.errors import UserError
from lightning_samseg.io.images import read_image
from tests.fakes import acdc_volume, truncate, write_acdc_native, write_folder, write_glas, write_nifti, write_retouch

PATIENTS = {"patient089": 6, "patient041": 6, "patient028": 3, "patient011": 2}
"""Two patients to train on, with as many slices as SSL4MIS's list has; one each to validate and test."""


@pytest.fixture
def release(tmp_path):
    return write_acdc_native(tmp_path / "release", PATIENTS)


def prepare(release, out):
    return data_cli.main(["prepare", "acdc", "--source", str(release), "--out", str(out)])


def test_list_names_licence_citation_and_layout_without_heavy_imports():
    code = "import sys; from lightning_samseg.cli.data import main; status = main(['list'])\n"
    code += "assert not {'torch', 'numpy', 'h5py', 'nibabel'} & set(sys.modules); sys.exit(status)"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    for name, data_set in data_cli.DATA_SETS.items():
        for text in (name, *data_set):
            assert text in done.stdout


def test_every_listed_data_set_exists():
    import data_modules

    for data_set in data_cli.DATA_SETS.values():
        package, _, name = data_set.module.partition(".")
        assert package == "data_modules"
        assert getattr(data_modules, name).__name__ == name


@pytest.mark.parametrize(
    "arguments",
    [
        ["demo", "folder", "--out", "demo"],
        ["verify", "folder", "--root", "own"],
        ["split", "--root", "own"],
        ["cache"],
        ["show", "folder", "--root", "own", "--out", "sheet.png", "--count", "3"],
        ["prepare", "retouch", "--source", "retouch", "--out", "out"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_no_verb_imports_torch(tmp_path, arguments):
    write_folder(tmp_path / "own", [f"a{n}" for n in range(5)])
    write_retouch(tmp_path / "retouch", volumes=1, b_scans=2)
    code = f"import sys; from lightning_samseg.cli.data import main; status = main({arguments!r})\n"
    code += "assert not {'torch', 'lightning', 'albumentations', 'scipy'} & set(sys.modules); sys.exit(status)"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, env=environment, capture_output=True)


def test_help_starts_at_once():
    """Without numpy even; in CPU seconds it would hang on the machine."""
    code = """
import sys
from lightning_samseg.__main__ import main
for verb in ("list", "demo", "verify", "prepare", "split", "show", "cache"):
    try:
        status = main(["data", verb] if verb == "list" else ["data", verb, "--help"])
    except SystemExit as stop:
        status = stop.code
    assert not status, verb
    assert not {"numpy", "torch", "cv2", "h5py"} & set(sys.modules), verb
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2], capture_output=True)


def test_where_decoded_images_are(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SAMSEG_CACHE", str(tmp_path))
    assert data_cli.main(["cache"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'decoded'}: 0 decoded images, 0.00 GB\n"
    write_folder(tmp_path / "own", [f"a{n}" for n in range(10)])
    layout = FolderLayout(str(tmp_path / "own"))
    DecodedCache(layout, 1, slow=0).read(layout.items()[0], labelled=True)
    assert data_cli.main(["cache"]) == 0
    assert "1 decoded images" in capsys.readouterr().out
    assert data_cli.main(["cache", "--clear"]) == 0
    assert "1 decoded images, 0.00 GB removed" in capsys.readouterr().out
    assert not (tmp_path / "decoded").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("bussi", "bussi is no data set"),
        ("absent.Layout", r"absent.Layout cannot be imported(.|\n)*No module named 'absent'"),
        ("data_modules.layouts.busi.Absent", "cannot be imported"),
        ("data_modules.layouts.base.Item", "is no data set"),
    ],
)
def test_names_that_are_no_data_set(tmp_path, name, message):
    with pytest.raises(UserError, match=message):
        data_cli.main(["verify", name, "--root", str(tmp_path)])


def test_a_layout_by_where_it_is_imported_from(tmp_path, capsys):
    write_folder(tmp_path, [f"a{n}" for n in range(10)])
    assert data_cli.main(["verify", "data_modules.layouts.folder.FolderLayout", "--root", str(tmp_path)]) == 0
    assert "10 images and slices, nothing wrong" in capsys.readouterr().out


def test_demo_of_every_data_set_is_sound(tmp_path, capsys):
    assert data_cli.main(["demo", "all", "--out", str(tmp_path), "--seed", "1"]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(data_cli.DEMOS)
    for name in data_cli.DEMOS:
        root = tmp_path / name
        if name == "acdc":
            assert prepare(root, tmp_path / "prepared") == 0
            root = tmp_path / "prepared"
        assert data_cli.main(["verify", name, "--root", str(root)]) == 0, name
    assert "--data data_modules.GlasDataModule --data.root" in capsys.readouterr().out
    data = AcdcDataModule(str(tmp_path / "prepared"), labelled_patients=1, image_size=32)
    assert len(data.unlabelled_items) > len(data.labelled_items) > 8
    with pytest.raises(UserError, match="is there already"):
        data_cli.main(["demo", "glas", "--out", str(tmp_path / "glas")])


def test_verify_ends_with_status_2_and_one_message_per_fault(tmp_path, capsys):
    folder = write_glas(tmp_path, grades=False)
    assert data_cli.main(["verify", "glas", "--root", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "note: no Grade.csv" in shown
    assert "13 images and slices, nothing wrong" in shown
    truncate(folder / "train_4.bmp")
    (folder / "train_5_anno.bmp").unlink()
    assert data_cli.main(["verify", "glas", "--root", str(tmp_path)]) == 2
    shown = capsys.readouterr().out
    assert "train_4.bmp cannot be read: it is a BMP picture that is damaged or cut off" in shown
    assert "train_5.bmp has no annotation" in shown
    assert shown.endswith("12 images and slices, 2 problems\n")
    assert data_cli.main(["verify", "polyp", "--root", str(tmp_path / "absent")]) == 2
    assert "There is no data folder" in capsys.readouterr().out


def test_verify_does_not_print_without_end(tmp_path, capsys):
    write_folder(tmp_path, [f"a{n}" for n in range(70)])
    for n in range(1, 70):
        (tmp_path / "masks" / f"a{n}.png").unlink()
    (tmp_path / "masks" / "other.png").write_bytes((tmp_path / "images" / "a1.png").read_bytes())
    assert data_cli.main(["verify", "folder", "--root", str(tmp_path)]) == 2
    shown = capsys.readouterr().out
    assert shown.count("has no mask") == 50
    assert "and 2" in shown


def test_split_writes_lists_that_the_folder_follows(tmp_path, capsys):
    names = [f"patient{n // 3}_{n}" for n in range(30)]
    write_folder(tmp_path, names)
    arguments = ["split", "--root", str(tmp_path), "--group", r"^patient\d+", "--seed", "4"]
    assert data_cli.main(arguments) == 0
    by_lists = FolderDataModule(str(tmp_path), image_size=32).splits
    random = FolderDataModule(str(tmp_path), image_size=32, split="random", group=r"^patient\d+", split_seed=4).splits
    assert [[item.case_id for item in part] for part in by_lists] == [[i.case_id for i in part] for part in random]
    head = (tmp_path / "splits" / "train.txt").read_text().splitlines()[0]
    assert head.startswith("# 21 train images; the first are labelled first; made by data split, seed 4, no group of")
    with pytest.raises(UserError, match=r"lists in .*splits already"):
        data_cli.main(arguments)
    assert data_cli.main([*arguments, "--overwrite", "--train", "0.5", "--val", "0.2"]) == 0
    assert "train.txt: 15 images" in capsys.readouterr().out
    with pytest.raises(UserError, match="leave nothing to test with"):
        data_cli.main([*arguments, "--overwrite", "--train", "0.9"])


def test_show_draws_contours(tmp_path, capsys):
    folder = write_glas(tmp_path)
    out = tmp_path / "sheets" / "glas.png"
    assert (
        data_cli.main(["show", "glas", "--root", str(folder), "--out", str(out), "--count", "5", "--columns", "3"]) == 0
    )
    sheet = read_image(out)
    assert sheet.shape == (2 * (240 + 18 + 4) + 4, 3 * 244 + 4, 3)
    assert "classes 1 gland" in capsys.readouterr().out
    first = sheet[4 : 4 + 240, 4 : 4 + 240]
    drawn = {tuple(colour) for colour in first.reshape(-1, 3).tolist()}
    assert {(0, 230, 118), (255, 179, 0), (64, 156, 255)} <= drawn  # three glands, each with its own colour
    green = np.argwhere((first == (0, 230, 118)).all(axis=2))  # gland 1: rows and columns 3..11 of 30 x 44
    scale, top = 240 / 44, 240 - round(30 * 240 / 44)
    np.testing.assert_allclose(green.min(axis=0), (top + 3 * scale, 3 * scale), atol=2)
    np.testing.assert_allclose(green.max(axis=0), (top + 12 * scale, 12 * scale), atol=2)
    retouch = write_retouch(tmp_path / "retouch", volumes=1)
    assert data_cli.main(["show", "retouch", "--root", str(retouch), "--out", str(out), "--count", "3"]) == 0
    sheet = read_image(out)
    for colour in ((0, 230, 118), (255, 179, 0), (64, 156, 255)):
        assert (sheet == colour).all(axis=2).any(axis=0)[4:244].any()  # a slice with all classes was chosen
    with pytest.raises(UserError, match="nothing of RETOUCH to show"):
        data_cli.main(["show", "retouch", "--root", str(retouch), "--out", str(out), "--count", "0"])


def test_prepare_retouch(tmp_path, capsys):
    source = write_retouch(tmp_path / "release")
    arguments = ["prepare", "retouch", "--source", str(source), "--out", str(tmp_path / "h5")]
    assert data_cli.main(arguments) == 0
    assert "15 volumes" in capsys.readouterr().out
    assert len(list((tmp_path / "h5" / "data").glob("*.h5"))) == 15
    data = RetouchDataModule(str(tmp_path / "h5"), image_size=32)
    assert [len(part) for part in data.splits] == [36, 12, 12, 0]
    (tmp_path / "h5" / "data" / "Topcon_TRAIN050.h5").unlink()
    assert data_cli.main(arguments) == 0
    assert "1 written, the others were there" in capsys.readouterr().out
    with pytest.raises(UserError, match="same folder"):
        data_cli.main(["prepare", "retouch", "--source", str(source), "--out", str(source)])
    with pytest.raises(UserError, match="No RETOUCH volumes found"):
        data_cli.main(["prepare", "retouch", "--source", str(tmp_path), "--out", str(tmp_path / "h5")])


def test_prepared_files(release, tmp_path, capsys):
    out = tmp_path / "acdc"
    assert prepare(release, out) == 0
    assert "warning: 96 of 100 patients are not in" in capsys.readouterr().out
    lines = read_list(LISTS / "train_slices.list")
    slices = [name for name in lines if name[:10] in PATIENTS]
    assert read_list(out / "train_slices.list") == slices
    assert len(slices) == 24
    assert read_list(out / "val.list") == ["patient028_frame01", "patient028_frame02"]
    assert read_list(out / "test.list") == ["patient011_frame01", "patient011_frame02"]
    assert {path.stem for path in (out / "data" / "slices").iterdir()} == set(slices)
    volumes = {f"{patient}_frame0{number}.h5" for patient in PATIENTS for number in (1, 2)}
    assert {path.name for path in (out / "data").glob("*.h5")} == volumes

    image, label = acdc_volume(6, seed=12)
    with h5py.File(out / "data" / "patient041_frame02.h5") as file:
        assert dict(file.attrs) == {"spacing": pytest.approx((10, 1.5, 1.25)), "frame": 12, "phase": "ES"}
        assert (file["image"].dtype, file["label"].dtype) == ("float32", "uint8")
        assert file["image"].chunks == (1, 24, 20)
        np.testing.assert_allclose(file["image"][()], image / 1000, atol=1e-7)
        np.testing.assert_array_equal(file["label"][()], label)
    with h5py.File(out / "data" / "slices" / "patient041_frame02_slice_1.h5") as file:
        np.testing.assert_allclose(file["image"][()], image[0] / 1000, atol=1e-7)
    with h5py.File(out / "data" / "slices" / "patient041_frame02_slice_6.h5") as file:
        np.testing.assert_array_equal(file["label"][()], label[5])
        assert file.attrs["frame"] == 12


def test_prepared_data_set_trains_and_is_scored_in_mm(release, tmp_path):
    prepare(release, tmp_path / "acdc")
    data = AcdcDataModule(str(tmp_path / "acdc"), labelled_patients=1, image_size=32)
    assert (len(data.labelled_items), len(data.unlabelled_items)) == (12, 12)
    cases = [case for batch in data.test_dataloader() for case in batch["cases"]]
    assert {case.spacing for case in cases} == {(10.0, 1.5, 1.25)}
    assert [(case.case_id, case.slice_index, case.num_slices) for case in cases] == [
        (f"patient011_frame0{frame}", index, 2) for frame in (1, 2) for index in (0, 1)
    ]


def test_it_goes_on_where_it_was_stopped(release, tmp_path, capsys):
    out = tmp_path / "acdc"
    (release / "training" / "patient011" / "patient011_frame12_gt.nii.gz").rename(tmp_path / "later.nii.gz")
    with pytest.raises(UserError, match=r"patient011_frame12_gt\.nii\.gz is missing"):
        prepare(release, out)
    shutil.move(tmp_path / "later.nii.gz", release / "training" / "patient011" / "patient011_frame12_gt.nii.gz")
    whole = release / "training" / "patient011" / "patient011_frame12.nii.gz"
    kept = whole.read_bytes()
    truncate(whole)
    with pytest.raises(UserError, match="cannot be read"):
        prepare(release, out)
    assert not [path for path in out.rglob("*") if path.name.startswith(".")]
    made = {path: path.stat().st_mtime_ns for path in out.rglob("*.h5")}
    assert made
    assert not (out / "test.list").exists()  # lists come last: a folder with lists is whole
    whole.write_bytes(kept)
    assert prepare(release, out) == 0
    assert all(path.stat().st_mtime_ns == time for path, time in made.items())
    assert f"{32 - len(made)} files written" in capsys.readouterr().out
    assert prepare(release, out) == 0
    assert "0 files written" in capsys.readouterr().out


@pytest.mark.parametrize("inside", ["", "training", "database"])
def test_source_may_be_any_folder_of_the_release(release, tmp_path, inside):
    if inside == "database":
        (tmp_path / "ACDC").mkdir()
        release = release.rename(tmp_path / "ACDC" / "database").parent
        inside = ""
    frames, missing = find_frames(release / inside)
    assert len(frames) == 8
    assert len(missing) == 96


def test_frames_are_numbered_by_time(tmp_path):
    """Patient 090: end-diastole is frame 11, end-systole frame 04, and the published frame01 is frame 04."""
    release = write_acdc_native(tmp_path, {"patient090": 7}, frames=(("ED", 11), ("ES", 4)))
    frames, _ = find_frames(release)
    assert [(frame.case, frame.number, frame.phase) for frame in frames] == [
        ("patient090_frame01", 4, "ES"),
        ("patient090_frame02", 11, "ED"),
    ]
    assert frames[0].image.name == "patient090_frame04.nii.gz"


def test_scaled_nifti_and_integer_valued_float_label(release):
    frame = find_frames(release)[0][0]
    image, label = acdc_volume(len(read_frame(frame).image), seed=1)
    scaled = nibabel.Nifti1Image(image.T, np.diag([1.25, 1.5, 10, 1]))
    scaled.header.set_slope_inter(2.0, 30.0)
    nibabel.save(scaled, frame.image)
    write_nifti(frame.label, label.astype(np.float32))
    volume = read_frame(frame)
    np.testing.assert_allclose(volume.image, image / 1000, atol=1e-6)
    np.testing.assert_array_equal(volume.label, label)
    assert volume.label.dtype == np.uint8
    assert volume.spacing == pytest.approx((10, 1.5, 1.25))


IMAGE, LABEL = acdc_volume(6)


@pytest.mark.parametrize(
    ("image", "label", "message"),
    [
        (IMAGE, LABEL[:5], "another shape"),
        (IMAGE, LABEL.transpose(0, 2, 1), "another shape"),
        (IMAGE[:1], LABEL[:1], "at least 2 slices"),
        (np.stack([IMAGE, IMAGE]), LABEL, "holds 2 volumes"),
        (IMAGE, LABEL + 1, "no class"),
        (IMAGE, LABEL * np.float32(0.5), "no class"),
        (IMAGE * 0, LABEL, "cannot be normalised"),
        (np.where(LABEL == 3, np.float32("nan"), IMAGE), LABEL, "not finite"),
        (IMAGE[:5], LABEL[:5], "has 5 slices"),
    ],
)
def test_volume_that_does_not_fit(release, tmp_path, image, label, message):
    folder = release / "training" / "patient089"
    for array, name in ((image, "patient089_frame01.nii.gz"), (label, "patient089_frame01_gt.nii.gz")):
        if array.ndim == 4:
            nibabel.save(nibabel.Nifti1Image(array.T, np.eye(4)), folder / name)
        else:
            write_nifti(folder / name, array)
    with pytest.raises(UserError, match=message) as raised:
        prepare(release, tmp_path / "acdc")
    assert "patient089_frame01" in str(raised.value)
    assert not list((tmp_path / "acdc").rglob("patient089_frame01*"))


def test_release_that_does_not_fit(release, tmp_path):
    with pytest.raises(UserError, match="No ACDC patients found"):
        prepare(tmp_path / "absent", tmp_path / "acdc")
    with pytest.raises(UserError, match="same folder"):
        prepare(release, release)
    info = release / "training" / "patient041" / "Info.cfg"
    info.write_text("ED: 1\nGroup: NOR\n")
    with pytest.raises(UserError, match=r"Info\.cfg does not tell"):
        prepare(release, tmp_path / "acdc")
    info.unlink()
    with pytest.raises(UserError, match=r"Info\.cfg does not tell"):
        prepare(release, tmp_path / "acdc")


def test_unknown_verb_and_missing_option():
    for arguments, said in ((["fetch"], "invalid choice: 'fetch'"), (["prepare", "acdc"], "--source"), ([], "VERB")):
        with pytest.raises(UserError, match=said):
            data_cli.main(arguments)
