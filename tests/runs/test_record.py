"""What a run was told, what it is told now, and what is written down of the difference."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from lightning_samseg.errors import UserError
from lightning_samseg.runs.record import KEY, Record

FACTS = {"processes": 1, "data_fingerprint": "aa", "split": "auto:bb", "weights_sha256": None}


def options(**model: Any) -> dict[str, Any]:
    return {
        "trainer": {"max_steps": model.pop("max_steps", 4)},
        "model": {"class_path": "UNet", "init_args": {"lr": 0.001, **model}},
        "ckpt_path": model.pop("ckpt_path", None),
    }


def checkpoint(step: int = 4, **model: Any) -> dict[str, Any]:
    record = Record(options(**model))
    record.note_facts(FACTS)
    return {"global_step": step, KEY: record.state()}


def resumed(now: dict[str, Any], before: dict[str, Any] | None = None, allow: bool = False) -> Record:
    record = Record(now, allow)
    record.resume(checkpoint() if before is None else before, Path("run/checkpoints/last.ckpt"), Path("run"))
    return record


def test_the_same_options_go_on_without_a_word(capsys: pytest.CaptureFixture[str]) -> None:
    record = resumed(options())
    record.note_facts(FACTS)
    assert (record.resumed_at, record.changed_now, record.changes, record.comments()) == (4, False, [], "")
    assert capsys.readouterr().out == ""


def test_what_makes_another_experiment_is_refused() -> None:
    with pytest.raises(UserError, match="another experiment") as caught:
        resumed(options(lr=0.5, max_steps=8))
    assert "found: model.lr 0.001 -> 0.5\n" in str(caught.value)
    assert "--allow_changes" in str(caught.value)


def test_what_does_not_is_said_and_recorded(capsys: pytest.CaptureFixture[str]) -> None:
    record = resumed(options(max_steps=8))
    assert capsys.readouterr().out == "the run goes on at iteration 4 with trainer.max_steps 4 -> 8\n"
    assert record.changes == [{"step": 4, "option": "trainer.max_steps", "from": 4, "to": 8}]
    assert record.comments() == "# changed at iteration 4: trainer.max_steps 4 -> 8\n"


def test_changes_add_up(capsys: pytest.CaptureFixture[str]) -> None:
    first = resumed(options(lr=0.5), allow=True)
    assert "warning: another experiment from here on" in capsys.readouterr().out
    first.note_facts(FACTS)
    second = resumed(options(lr=0.5, max_steps=9), {"global_step": 6, KEY: first.state()})
    assert [(each["step"], each["option"]) for each in second.changes] == [(4, "model.lr"), (6, "trainer.max_steps")]
    assert yaml.safe_load(second.comments()) is None
    assert second.comments().count("\n") == 2
    tested = Record(options())
    tested.take_over({KEY: second.state()})
    assert tested.changes == second.changes
    assert not tested.changed_now


def test_other_data_are_another_experiment() -> None:
    record = resumed(options())
    with pytest.raises(UserError, match="processes 1 -> 2; data_fingerprint aa -> cc") as caught:
        record.note_facts({**FACTS, "data_fingerprint": "cc", "processes": 2, "weights_sha256": "dd"})
    assert "weights_sha256" not in str(caught.value)  # it was not known
    allowed = resumed(options(), allow=True)
    allowed.note_facts({**FACTS, "processes": 2})
    assert allowed.changes == [{"step": 4, "option": "processes", "from": 1, "to": 2}]


def test_an_older_checkpoint_is_compared_with_config_yaml(tmp_path: Path) -> None:
    path = tmp_path / "checkpoints" / "last.ckpt"
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(options()))
    with pytest.raises(UserError, match=f"as in {tmp_path}/config.yaml"):
        Record(options(lr=0.5)).resume({"global_step": 4}, path, tmp_path)
    (tmp_path / "config.yaml").unlink()
    record = Record(options(lr=0.5))
    record.resume({"global_step": 4}, path, tmp_path)  # nothing to compare with
    assert record.changes == []


def test_config_yaml_repeats_the_run_from_its_start(tmp_path: Path) -> None:
    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    for folder, kept in (("run", None), ("other", str(path))):
        record = Record(options(ckpt_path=str(path)))
        record.resume(checkpoint(), path, tmp_path / folder)
        assert record.options["ckpt_path"] == kept
