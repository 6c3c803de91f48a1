"""AuxOL on the command line in two gloo processes, against one process with two images per step."""

import csv
import json
import os
import shutil
import signal
import traceback
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_samseg.__main__ import main
from lightning_samseg.callbacks import StreamWriter
from lightning_samseg.methods import AuxOl
from lightning_samseg.online.row_files import image_fields
from lightning_samseg.online.scores import PromptRow
from tests.comparing import assert_equal
from tests.float64 import learn_in_float64

pytestmark = pytest.mark.processes

CONFIG = """
checkpoint_every: 2
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
    cache_gb: 0
data:
  class_path: data_modules.FolderDataModule
  init_args: {image_size: 32, masks: binary}
"""
OBJECTS = [1, 2, 1, 0, 0, 1, 3, 1, 1]  # of each image: uneven prompts, a step without any for rank 1, an odd end
RATE = ["--model.expert.rate", "0.7"]  # images without a rectified mask
KEPT = 1e-6
"""Some last bits of float32, relative."""
TWO = ["--trainer.devices", "2", "--trainer.strategy", "ddp_fork"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("stream")
    rows, columns = np.ogrid[:40, :90]
    for position, objects in enumerate(OBJECTS):
        rng = np.random.default_rng(position)
        mask = np.zeros((40, 90), bool)
        for number in range(objects):
            y, x, radius = rng.uniform(14, 26), rng.uniform(13, 16) + 29 * number, rng.uniform(6, 9)
            mask |= (rows - y) ** 2 + (columns - x) ** 2 < radius**2
        image = np.clip(rng.normal(90, 15, (40, 90, 3)) + 70 * mask[..., None], 0, 255).astype(np.uint8)
        for folder, pixels in (("images", image), ("masks", mask.astype(np.uint8) * 255)):
            (root / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(root / folder / f"case{position}.png")
    return root


class Bench:
    """Types commands, each in a process of its own: gloo's group and the forks of others stay out of it.

    The auxiliary network computes in float64, or two orders of summation would not lead to the same weights.
    """

    def __init__(self, folder: Path, data: Path) -> None:
        self.folder, self.data = folder, data
        (folder / "config.yaml").write_text(CONFIG)

    def __call__(self, run: str, *options: str) -> int:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                os.environ["GLOO_SOCKET_IFNAME"] = "lo"
                # Whoever has counted GPUs before may not be forked, says Lightning; here nobody goes near one.
                torch.cuda._is_in_bad_fork = lambda: False
                learn_in_float64(pytest.MonkeyPatch())  # never undone: the process ends here
                common = ["--config", str(self.folder / "config.yaml"), "--data.root", str(self.data)]
                with (self.folder / f"{run}.log").open("a") as log, redirect_stdout(log), redirect_stderr(log):
                    try:
                        status = main(["fit", *common, "--trainer.default_root_dir", str(self.folder / run), *options])
                    except BaseException:
                        traceback.print_exc()
                        raise
            finally:
                os._exit(status)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    def log(self, run: str) -> str:
        return (self.folder / f"{run}.log").read_text()

    def rows(self, run: str, name: str) -> list[dict[str, str]]:
        with (self.folder / run / f"{name}.csv").open() as file:
            return list(csv.DictReader(file))

    def result(self, run: str) -> dict[str, Any]:
        return json.loads((self.folder / run / "metrics.json").read_text())

    def checkpoint(self, run: str) -> dict[str, Any]:
        return torch.load(self.folder / run / "checkpoints" / "last.ckpt", weights_only=True)

    def assert_close(self, one: str, other: str) -> None:
        """Rows in order, table, batch and weights."""
        for name, fields in (("cases", image_fields("aux_ol")), ("prompts", PromptRow._fields)):
            pairs = zip(self.rows(one, name), self.rows(other, name), strict=True)
            for a, b in pairs:
                assert list(a) == list(fields)
                assert a == {key: value if value == a[key] else near(a[key], value) for key, value in b.items()}
        tables = [self.result(run)["summary"] for run in (one, other)]
        for key in ("sam", "sam_clipped", "aux_ol"):
            assert_equal(tables[0][key], tables[1][key], key, within=KEPT)
        assert tables[0]["images"] == tables[1]["images"] == len(OBJECTS)
        states = [self.checkpoint(run) for run in (one, other)]
        assert states[0]["global_step"] == states[1]["global_step"]
        assert_equal(states[0]["online"], states[1]["online"], "online", within=KEPT)
        assert_equal(states[0]["state_dict"], states[1]["state_dict"], "weights", within=1e-12)


def near(text: str, other: str) -> str:
    """The first number where the second is as close to it as float32 can tell."""
    return text if text and other and abs(float(text) - float(other)) <= KEPT * max(1, abs(float(text))) else other


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Bench:
    """A bench on which two processes have walked, each saving what it holds at the end."""
    bench = Bench(tmp_path_factory.mktemp("bench"), data)

    def save(self: AuxOl) -> None:
        state = {"weights": self.auxiliary.state_dict(), "online": self.learner.state_dict(weights=False)}
        torch.save(state, bench.folder / f"rank{self.global_rank}.pt")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AuxOl, "on_train_end", save)
        assert bench("two", *RATE, *TWO) == 0, bench.log("two")
    return bench


def test_every_rank_ends_with_the_same_bits(bench: Bench) -> None:
    states = [torch.load(bench.folder / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]
    assert_equal(*states)


def test_two_processes_equal_two_images_per_step(bench: Bench) -> None:
    assert bench("one", *RATE, "--model.images_per_step", "2") == 0, bench.log("one")
    bench.assert_close("two", "one")
    assert [int(row["prompts"]) for row in bench.rows("two", "cases")] == OBJECTS
    assert {row["feedback"] for row in bench.rows("two", "cases")} == {"expert", "none"}
    result = bench.result("two")
    assert (result["iterations"], result["images_per_step"], result["processes"]) == (5, 2, 2)
    pictures = [{path.name: path for path in (bench.folder / run / "figures").glob("*.png")} for run in ("two", "one")]
    assert len(pictures[0]) == 6
    for name, path in pictures[0].items():
        np.testing.assert_array_equal(np.asarray(Image.open(path)), np.asarray(Image.open(pictures[1][name])))
    assert len(bench.log("two").split("SAM + AuxOL")) == 2  # one table, by rank 0


@pytest.mark.slow
def test_four_images_per_step_in_two_processes(bench: Bench) -> None:
    options = ["--model.images_per_step", "4", "--model.learning.order", "image", "--model.learning.step_per", "image"]
    assert bench("two_of_four", *options, *TWO) == 0, bench.log("two_of_four")
    assert bench("one_of_four", *options) == 0, bench.log("one_of_four")
    bench.assert_close("two_of_four", "one_of_four")
    assert bench.result("one_of_four")["iterations"] == 3


def test_kill_9_and_resume(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """In two processes as before, and, with two images per step, in one that takes over; not with one per step."""
    write = StreamWriter.on_train_batch_end

    def dies(self: StreamWriter, trainer: Any, *rest: Any) -> None:
        write(self, trainer, *rest)
        if trainer.global_step >= 3 and trainer.is_global_zero:
            os.killpg(0, signal.SIGKILL)  # both ranks and the parent

    with monkeypatch.context() as patch:
        patch.setattr(StreamWriter, "on_train_batch_end", dies)
        child = os.fork()
        if child == 0:
            os.setpgid(0, 0)  # a process group that dies as a whole
            os._exit(bench("cut", *RATE, *TWO))
        assert os.waitpid(child, 0)[1] == signal.SIGKILL
    assert bench.checkpoint("cut")["global_step"] == 2
    assert len(bench.rows("cut", "cases")) == 6
    for run in ("taken_over", "refused"):
        shutil.copytree(bench.folder / "cut", bench.folder / run)
    assert bench("cut", *RATE, *TWO, "--ckpt_path", "last") == 0, bench.log("cut")
    for name in ("cases.csv", "prompts.csv"):
        assert (bench.folder / "cut" / name).read_bytes() == (bench.folder / "two" / name).read_bytes()
    bench.assert_close("cut", "two")
    more = [*RATE, "--model.images_per_step", "2", "--ckpt_path", "last"]
    assert bench("taken_over", *more) == 0, bench.log("taken_over")
    bench.assert_close("taken_over", "two")
    assert bench("refused", *RATE, "--ckpt_path", "last") == 2
    assert "another number of images per step" in bench.log("refused")
    assert "set --model.images_per_step 2" in bench.log("refused")
