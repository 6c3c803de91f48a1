"""A checkpoint that cannot be read, and the way on."""

from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_samseg.errors import UserError
from lightning_samseg.io.checkpoints import read_checkpoint


@pytest.mark.parametrize(("error", "found"), [(EOFError(), "EOFError"), (RuntimeError("cut\noff"), "cut")])
def test_a_damaged_checkpoint_names_what_is_left(
    error: Exception, found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*args: Any, **kwargs: Any) -> None:
        raise error

    (tmp_path / "last.ckpt").touch()
    monkeypatch.setattr(torch, "load", load)
    with pytest.raises(UserError, match=f"found: {found}\n") as caught:
        read_checkpoint(tmp_path / "last.ckpt")
    assert "--ckpt_path best" in str(caught.value)
