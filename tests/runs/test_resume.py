"""What ``--ckpt_path`` means."""

from pathlib import Path

import pytest

from lightning_samseg.adapters.checkpoints import CheckpointFiles
from lightning_samseg.errors import UserError
from lightning_samseg.runs.resume import find_checkpoint


def save(path: Path, step: int) -> Path:
    state = {"state_dict": {}, "pytorch-lightning_version": "2.6.6", "global_step": step}
    CheckpointFiles().save_checkpoint(state, path)
    return path


def test_last_best_and_a_file(tmp_path: Path) -> None:
    assert find_checkpoint(tmp_path, None) is None
    assert find_checkpoint(tmp_path, "last") is None
    with pytest.raises(UserError, match=r"There is no checkpoint .*best\.ckpt"):
        find_checkpoint(tmp_path, "best")
    with pytest.raises(UserError, match=r"There is no checkpoint nowhere\.ckpt"):
        find_checkpoint(tmp_path, "nowhere.ckpt")
    last, best = (save(tmp_path / "checkpoints" / f"{name}.ckpt", 1) for name in ("last", "best"))
    assert find_checkpoint(tmp_path, "last") == last
    assert find_checkpoint(tmp_path, "best") == best
    assert find_checkpoint(tmp_path / "other", str(best)) == best


@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(b""), Path.unlink], ids=["damaged", "gone"])
def test_the_one_before_stands_in(damage, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for step in (3, 4):
        last = save(tmp_path / "checkpoints" / "last.ckpt", step)
    previous = last.with_name("previous.ckpt")
    damage(last)
    assert find_checkpoint(tmp_path, "last") == previous
    assert capsys.readouterr().out.splitlines() == [
        f"warning: {last} cannot be read: going on from previous.ckpt, of step 3."
    ]
    previous.write_bytes(b"")
    with pytest.raises(UserError, match=r"last\.ckpt"):
        find_checkpoint(tmp_path, "last")
