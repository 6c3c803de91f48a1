"""How many processes a data set can feed."""

from types import SimpleNamespace
from typing import Any

import pytest

from data_modules import BusiDataModule
from lightning_samseg.errors import UserError
from tests.fakes import write_busi


def test_processes_may_not_share_a_labelled_image_in_a_step(tmp_path: Any) -> None:
    data = write_busi(tmp_path, benign=14, malignant=6)
    module = BusiDataModule(
        str(data), split="random", image_size=32, num_labelled=5, labelled_batch_size=2, unlabelled_batch_size=1
    )
    module.trainer = SimpleNamespace(  # type: ignore[assignment]
        world_size=2, global_rank=1, max_steps=3, accumulate_grad_batches=1, lightning_module=None, overfit_batches=0
    )
    assert len(module.train_dataloader().sampler.batch(0)) == 2
    module.trainer.world_size = 3
    with pytest.raises(UserError, match="5 labelled images cannot feed 3 processes") as caught:
        module.train_dataloader()
    assert "at least 6" in str(caught.value)
