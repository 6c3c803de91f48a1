"""``predict --input`` of the methods that take prompts from a file: zero-shot SAM and AuxOL."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_samseg.__main__ import main
from lightning_samseg.cli.train import run
from lightning_samseg.io.images import read_image, to_rgb_uint8, write_image
from lightning_samseg.io.volumes import open_volume, read_volume
from lightning_samseg.methods import AuxOl, ZeroShot
from lightning_samseg.methods.zero_shot import class_objects
from lightning_samseg.prediction.predictor import load_predictor
from lightning_samseg.prompts.boxes import crop_of_box
from tests.fakes import write_nifti
from tests.grouped import grouped
from tests.test_stream_cli import CONFIG, write_stream

LENGTH = 6


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_stream(tmp_path_factory.mktemp("stream"))


@pytest.fixture(scope="module")
def boxes(stream: Path) -> dict[str, list[tuple[int, int, int, int]]]:
    """Half-open boxes around the objects of each image."""
    found = {}
    for path in sorted((stream / "masks").iterdir()):
        reference = (read_image(path) > 0).astype(np.uint8)
        found[path.stem] = [tuple(item.box) for _, item in class_objects(reference, 1, "object")]
    return found


def write_boxes(path: Path, boxes: dict[str, list[tuple[int, int, int, int]]]) -> Path:
    lines = [",".join([name, *map(str, box)]) for name, rows in boxes.items() for box in rows]
    path.write_text("\n".join(["image,x0,y0,x1,y1", *lines]))
    return path


@pytest.fixture(scope="module")
def learned(stream: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, AuxOl]:
    """A checkpoint of AuxOL after a stream, and the method as it was in memory."""
    folder = tmp_path_factory.mktemp("aux_ol")
    (folder / "config.yaml").write_text(CONFIG)
    options = ["--config", str(folder / "config.yaml"), "--data.root", str(stream)]
    options += ["--trainer.default_root_dir", str(folder / "run"), "--trainer.max_steps", str(LENGTH)]
    cli = run(["fit", *options])
    return folder / "run" / "checkpoints" / "last.ckpt", cli.model.eval()


def test_aux_ol_predicts_with_what_it_has_learned(
    tmp_path: Path,
    stream: Path,
    boxes: dict[str, list[tuple[int, int, int, int]]],
    learned: tuple[Path, AuxOl],
    capsys: pytest.CaptureFixture[str],
) -> None:
    _, method = learned
    checkpoint = torch.load(learned[0], weights_only=True)
    learnt = checkpoint["online"]["fusion"]["history"]
    assert len(learnt)
    assert float(load_predictor(learned[0]).method.learner.fusion.value(torch.device("cpu"))) == float(learnt.mean())
    learnt[:] = 0.3  # after so few rounds it is SAM alone
    method.learner.fusion.load_state_dict({"history": learnt})
    path = tmp_path / "last.ckpt"
    torch.save(checkpoint, path)
    before = path.read_bytes()
    prompts = write_boxes(tmp_path / "boxes.csv", boxes)
    options = ["--ckpt_path", str(path), "--input", str(stream / "images"), "--prompts", str(prompts)]
    assert main(["predict", *options, "--output", str(tmp_path / "out"), "--probabilities"]) == 0
    assert "7 of 8 images have prompts" in capsys.readouterr().out
    fused_differs = False
    for name, rows in boxes.items():
        picture = to_rgb_uint8(read_image(stream / "images" / f"{name}.png"))
        logits = method.sam_logits(picture, np.array(rows, np.float64).reshape(-1, 4))
        crops = [crop_of_box(row, picture.shape[:2]) for row in rows]
        image = torch.from_numpy(picture.transpose(2, 0, 1).copy())
        expected = method.learner.predict(image, logits, crops, 0)
        mask = read_image(tmp_path / "out" / "masks" / f"{name}.png")
        np.testing.assert_array_equal(mask, expected.mask.numpy())
        fused_differs |= bool((expected.mask != expected.sam_clipped).any())
        with np.load(tmp_path / "out" / "probabilities" / f"{name}.npz") as stored:
            assert stored["probabilities"].shape == (2, *mask.shape)
            np.testing.assert_array_equal(
                stored["probabilities"][1] > 0.5005, mask * stored["probabilities"][1] > 0.5005
            )
            assert not stored["probabilities"][1][mask == 0].max(initial=0) > 0.5005
    assert fused_differs  # the auxiliary network has its say
    assert path.read_bytes() == before


def test_aux_ol_beside_another_sam_is_refused(
    tmp_path: Path, stream: Path, learned: tuple[Path, AuxOl], capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = torch.load(learned[0], weights_only=True)
    torch.save({**checkpoint, "weights_sha256": "0" * 64}, tmp_path / "other.ckpt")
    options = ["--input", str(stream / "images"), "--output", str(tmp_path / "out")]
    assert main(["predict", "--ckpt_path", str(tmp_path / "other.ckpt"), *options, "--prompts", "x.csv"]) == 2
    assert "another SAM" in capsys.readouterr().err
    assert main(["predict", "--ckpt_path", str(learned[0]), *options]) == 2
    assert "AuxOl has to be told where the objects are" in capsys.readouterr().err


@pytest.mark.parametrize("prompt", ["box", "point"])
def test_zero_shot_by_a_file_is_that_by_the_reference(
    tmp_path: Path, stream: Path, boxes: dict[str, list[tuple[int, int, int, int]]], prompt: str
) -> None:
    method = grouped(ZeroShot, backbone="tiny", prompt=prompt, prompt_per="object", num_classes=1)
    file = write_boxes(tmp_path / "prompts.csv", boxes)
    if prompt == "point":
        lines = ["x,image,y"]
        for path in sorted((stream / "masks").iterdir()):
            for _, item in class_objects((read_image(path) > 0).astype(np.uint8), 1, "object"):
                x, y = item.point("deepest")
                lines.append(f"{x},{path.name},{y}")
        file.write_text("\n".join(lines))
    else:  # COCO, too
        images = [{"id": number, "file_name": f"{name}.png"} for number, name in enumerate(boxes)]
        annotations = [
            {"image_id": number, "bbox": [x0, y0, x1 - x0, y1 - y0]}
            for number, rows in enumerate(boxes.values())
            for x0, y0, x1, y1 in rows
        ]
        file = tmp_path / "coco.json"
        file.write_text(json.dumps({"images": images, "annotations": annotations}))
    options = ["--method", "zero_shot", "--backbone", "tiny", "--prompt", prompt, "--prompts", str(file)]
    assert main(["predict", *options, "--input", str(stream / "images"), "--output", str(tmp_path / "out")]) == 0
    foreground = 0
    for name in boxes:
        picture = to_rgb_uint8(read_image(stream / "images" / f"{name}.png"))
        expected = method.label_map(picture, (read_image(stream / "masks" / f"{name}.png") > 0).astype(np.uint8))
        np.testing.assert_array_equal(read_image(tmp_path / "out" / "masks" / f"{name}.png"), expected)
        foreground += int(expected.sum())
    assert foreground


def test_slices_of_a_volume_are_prompted_by_number(tmp_path: Path) -> None:
    volume = np.random.default_rng(0).integers(0, 900, (3, 40, 50)).astype(np.int16)
    (tmp_path / "in").mkdir()
    write_nifti(tmp_path / "in" / "ct.nii.gz", volume)
    file = write_boxes(tmp_path / "boxes.csv", {"ct_001": [(5, 6, 30, 31)]})
    options = ["--method", "zero_shot", "--backbone", "tiny", "--prompts", str(file), "--probabilities"]
    assert main(["predict", *options, "--input", str(tmp_path / "in"), "--output", str(tmp_path / "out")]) == 0
    mask = read_volume(open_volume(tmp_path / "out" / "masks" / "ct.nii.gz"))
    assert [bool(labels.any()) for labels in mask] == [False, True, False]
    with np.load(tmp_path / "out" / "probabilities" / "ct.nii.gz.npz") as stored:
        assert stored["probabilities"].shape == (2, 3, 40, 50)
        assert (stored["probabilities"][1, [0, 2]] == 0).all()


def test_mistakes_in_prompt_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "sub/a", "b"):
        write_image(tmp_path / "in" / f"{name}.png", np.random.default_rng(0).integers(0, 255, (20, 30), np.uint8))
    Image.open(tmp_path / "in" / "b.png").save(tmp_path / "in" / "c.png")

    def predict(out: str, rows: str) -> int:
        (tmp_path / "boxes.csv").write_text("image,x0,y0,x1,y1\n" + rows)
        options = ["--method", "zero_shot", "--backbone", "tiny", "--prompts", str(tmp_path / "boxes.csv")]
        return main(["predict", *options, "--input", str(tmp_path / "in"), "--output", str(tmp_path / out)])

    assert predict("x", "nobody,1,2,9,9") == 2
    assert "'nobody' is no image of --input" in capsys.readouterr().err
    for number, row in enumerate(("a.png,1,2,9,9", "a,1,2,9,9", "sub/a,1,2,9,9", "sub/a.png,1,2,9,9")):
        out = tmp_path / f"out{number}"  # a name with its folder is never another image's
        assert predict(out.name, row) == 0
        masks = [read_image(out / "masks" / name).any() for name in ("a.png", "sub/a.png", "b.png", "c.png")]
        assert not any(masks[2:])
        assert not masks[number < 2]
    assert predict("z", "b,1,2,9,9\nc,90,90,99,99\n") == 1
    assert "the box lies outside the image" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "z" / "masks").iterdir()} == {"a.png", "b.png", "sub"}
    assert (
        main(
            [
                "predict",
                "--method",
                "zero_shot",
                "--prompts",
                "no.csv",
                "--backbone",
                "tiny",
                "--input",
                str(tmp_path / "in"),
                "--output",
                str(tmp_path / "w"),
            ]
        )
        == 2
    )
    assert "no prompt file no.csv" in capsys.readouterr().err
