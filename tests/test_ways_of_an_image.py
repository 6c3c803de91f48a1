"""CONTRIBUTING tells which files an image goes through, to a loss and to a fused mask; here one is followed."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import lightning_samseg as samseg
from data_modules import BusiDataModule
from data_modules.loading.dataset import SegmentationDataset
from data_modules.online import OnlineDataset
from lightning_samseg.methods import AuxOl, SAMed, supervised
from lightning_samseg.models.sam_config import PretrainedSam, SamConfig
from lightning_samseg.online import learner
from tests.fakes import write_busi

ROOT = Path(__file__).parents[1]
OF_THE_RUN = ("lightning_samseg/callbacks/", "lightning_samseg/runs/")
"""What runs between two batches and never sees an image."""


def told(heading: str) -> tuple[list[str], set[str]]:
    """The files under a heading: those of the way in its order, and those that are looked up beside it."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split(f"### {heading}\n")[1].split("\n#")[0]
    way = re.findall(r"^\d+\. `([^`]+)`", text, re.MULTILINE)
    beside = text.split("Beside it: ")[1]
    return way, set(re.findall(r"`([a-z_/0-9]+\.py)`", beside))


class Follow:
    """Notes the files of ours whose functions are called, from the first call of one function to the end of another."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, start: tuple[Any, str], end: tuple[Any, str]) -> None:
        self.files: list[str] = []
        self.started = self.ended = False
        first, last = (getattr(*place) for place in (start, end))

        def begin(*arguments: Any, **named: Any) -> Any:
            if not self.started:
                self.started = True
                sys.setprofile(self.note)
            return first(*arguments, **named)

        def finish(*arguments: Any, **named: Any) -> Any:
            answer = last(*arguments, **named)
            sys.setprofile(None)
            self.ended = True
            return answer

        monkeypatch.setattr(*start, begin)
        monkeypatch.setattr(*end, finish)

    def note(self, frame: FrameType, event: str, _: Any) -> None:
        path = Path(frame.f_code.co_filename)
        if event == "call" and path.is_relative_to(ROOT):
            name = path.relative_to(ROOT).as_posix()
            ours = name.startswith(("lightning_samseg/", "data_modules/")) and not name.startswith(OF_THE_RUN)
            if ours and name not in self.files:
                self.files.append(name)


@pytest.fixture(autouse=True)
def no_profile() -> Iterator[None]:
    """Whatever fails, nothing goes on being noted."""
    yield
    sys.setprofile(None)


@pytest.fixture
def data(tmp_path: Path) -> BusiDataModule:
    root = write_busi(tmp_path, malignant=14)
    return BusiDataModule(str(root), image_size=32, num_workers=0, split="random", cache_gb=0)


def test_from_disk_to_a_loss(data: BusiDataModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    follow = Follow(monkeypatch, (SegmentationDataset, "__getitem__"), (supervised, "dice_ce_loss"))
    method = SAMed(PretrainedSam("tiny"), image_size=32, num_classes=1)
    samseg.fit(method, data, folder=tmp_path / "run", max_steps=1, accelerator="cpu")
    way, beside = told("From disk to the loss")
    assert follow.ended
    assert set(follow.files) == {*way, *beside}
    assert [name for name in follow.files if name in way] == way
    assert len(way) <= 8


def test_from_disk_to_a_fused_mask(data: BusiDataModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    follow = Follow(monkeypatch, (OnlineDataset, "__getitem__"), (learner, "assemble"))
    samseg.fit(AuxOl(SamConfig("tiny")), data, folder=tmp_path / "run", max_steps=1, accelerator="cpu")
    way, beside = told("From disk to a fused mask")
    assert follow.ended
    assert set(follow.files) == {*way, *beside}
    assert [name for name in follow.files if name in way] == way
    assert len(way) <= 14
