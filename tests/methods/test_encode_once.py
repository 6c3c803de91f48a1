"""What the frozen blocks make is looked up: the same embedding and gradients, in any batch, also after a kill."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lightning_samseg.__main__ import main
from lightning_samseg.errors import UserError
from lightning_samseg.methods.encode_once import EncodeOnce, encoder_steps, look_up_encodings
from lightning_samseg.models.branched_sam import BranchedSam
from lightning_samseg.models.image_encoders import build_image_encoder
from tests.fakes import write_folder
from tests.official import branched_sam

CONFIG = """
trainer: {accelerator: cpu, max_steps: 4, val_check_interval: 2, enable_progress_bar: false,
          enable_model_summary: false, log_every_n_steps: 1}
checkpoint_every: 2
model:
  class_path: lightning_samseg.methods.CpcSam
  init_args: {sam: {backbone: tiny, pretrained: false}, adapter: {blocks: [-1]}, optimizer: {max_iters: 4},
              ssl_start_iter: 1, encode_once: true, feature_dropout: 0.5}
data:
  class_path: data_modules.FolderDataModule
  init_args: {image_size: 32, split: random, num_labelled: 3, labelled_batch_size: 2,
              unlabelled_batch_size: 2, views: 2}
"""


@pytest.fixture(autouse=True)
def folder_of_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    torch.set_num_threads(1)
    monkeypatch.setenv("SAMSEG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "encoded"


def adapted(blocks: list[int] | None, rank: int = 4) -> BranchedSam:
    torch.manual_seed(0)
    sam = branched_sam("tiny", 64, 1, lora_rank=rank, lora_blocks=blocks, pretrained=False)
    for name, parameter in sam.image_encoder.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return sam


@pytest.mark.parametrize("backbone", ["tiny", "lite_medsam"])
def test_the_steps_are_the_encoder(backbone: str) -> None:
    torch.manual_seed(0)
    encoder = build_image_encoder(backbone, 32).eval()
    x = image = torch.rand(1, 3, 32, 32)
    steps = encoder_steps(encoder)
    assert len(steps) > 4
    with torch.no_grad():
        for step in steps:
            x = step.run(x)
        torch.testing.assert_close(x, encoder(image), rtol=0, atol=0)
    covered = {id(p) for step in steps for p in step.part.parameters()}
    assert {name for name, p in encoder.named_parameters() if id(p) not in covered} <= {"pos_embed"}


@pytest.mark.parametrize(("blocks", "rank"), [([-1], 4), ([1, 2], 4), (None, 0)])
def test_embedding_and_gradients_are_those_of_the_encoder(blocks: list[int] | None, rank: int) -> None:
    sam, images = adapted(blocks, rank), torch.rand(3, 3, 64, 64)
    once = EncodeOnce(sam.image_encoder)
    trained = [p for p in sam.image_encoder.parameters() if p.requires_grad]
    for _ in range(2):  # computed, then looked up
        ours, expected = once(images), sam.image_encoder(images)
        torch.testing.assert_close(ours, expected)
        if trained:
            weights = torch.rand_like(expected)  # the neck's norm makes the sum of squares a constant
            gradients = torch.autograd.grad((ours * weights).sum(), trained)
            theirs = torch.autograd.grad((expected * weights).sum(), trained)
            # Sums over other batches round otherwise: by a share of the largest terms, not of each small sum.
            largest = max(float(gradient.abs().max()) for gradient in theirs)
            for one, other in zip(gradients, theirs, strict=True):
                torch.testing.assert_close(one, other, rtol=0, atol=1e-4 * largest)


def test_an_image_is_encoded_once_and_alone() -> None:
    sam, images = adapted(None, rank=0), torch.rand(3, 3, 64, 64)
    once = EncodeOnce(sam.image_encoder)
    seen: list[int] = []
    first = once.frozen[0]
    once.frozen[0] = first._replace(run=lambda x: seen.append(len(x)) or first.run(x))
    together = once(images)  # nothing is behind the frozen steps: bits are those that were kept
    assert seen == [1, 1, 1]
    assert torch.equal(once(images.flip(0)).flip(0), together)
    assert torch.equal(EncodeOnce(sam.image_encoder)(images[1:2]), together[1:2])  # of another run, from the disk
    assert seen == [1, 1, 1]
    once(images + 1e-3)
    assert len(seen) == 6


def test_what_is_computed_lies_in_memory_as_what_is_looked_up() -> None:
    """TinyViT's maps are channels-last; the last bits of what is computed from them depend on it."""
    encoder = build_image_encoder("lite_medsam", 32).requires_grad_(False)
    once, images = EncodeOnce(encoder), torch.rand(2, 3, 32, 32)
    computed, looked_up = once(images), once(images)
    assert torch.equal(computed, looked_up)
    assert computed.stride() == looked_up.stride()


def test_other_frozen_weights_have_entries_of_their_own() -> None:
    sam, images = adapted([-1]), torch.rand(1, 3, 64, 64)
    once = EncodeOnce(sam.image_encoder)
    once(images)
    other = {name: value + 0.01 for name, value in sam.image_encoder.state_dict().items()}
    sam.image_encoder.load_state_dict(other)
    torch.testing.assert_close(once(images), sam.image_encoder(images))


def test_what_learns_from_the_first_block_on_is_refused() -> None:
    with pytest.raises(UserError, match="from its first block on"):
        EncodeOnce(adapted(None).image_encoder)


def test_endless_versions_of_images_are_refused() -> None:
    trainer: Any = SimpleNamespace(datamodule=SimpleNamespace(augment="cpc_sam", views=None))
    with pytest.raises(UserError, match=r"data\.views"):
        look_up_encodings(adapted([-1]), trainer)


def test_pooling_averages_cells_and_keeps_the_size_of_the_logits() -> None:
    torch.manual_seed(0)
    pooled = branched_sam("tiny", 64, 1, embedding_pool=2, pretrained=False)
    plain = branched_sam("tiny", 64, 1, pretrained=False)
    plain.load_state_dict(pooled.state_dict())
    image = torch.rand(1, 3, 64, 64)
    cells = plain.encode(image)
    expected = torch.stack([cells[..., i::2, j::2] for i in (0, 1) for j in (0, 1)]).mean(0)
    torch.testing.assert_close(pooled.encode(image), expected)
    assert pooled.decode(pooled.encode(image)).shape == plain.decode(cells).shape == (1, 2, 64, 64)
    with pytest.raises(UserError, match="divisor of its side, 4 cells"):
        branched_sam("tiny", 64, 1, embedding_pool=3)


def test_a_run_that_goes_on_has_the_same_weights(tmp_path: Path, folder_of_the_cache: Path) -> None:
    """Bit for bit, with an empty cache, too; and the test after it computes as usual."""
    (tmp_path / "config.yaml").write_text(CONFIG)
    data = write_folder(tmp_path / "data", [f"a{n}" for n in range(12)])
    common = ["fit", "--config", str(tmp_path / "config.yaml"), "--data.root", str(data)]

    def fit(run: str, *options: str) -> dict[str, torch.Tensor]:
        assert main([*common, "--trainer.default_root_dir", str(tmp_path / run), *options]) == 0
        return torch.load(tmp_path / run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]

    whole = fit("whole", "--test_after_fit", "true")
    made = len(list(folder_of_the_cache.glob("*/*.logits")))
    fit("halved", "--trainer.max_steps", "2")
    for path in folder_of_the_cache.glob("*/*.logits"):
        path.unlink()
    again = fit("halved", "--ckpt_path", "last")
    assert 0 < len(list(folder_of_the_cache.glob("*/*.logits"))) <= made
    for name, value in whole.items():
        assert torch.equal(value, again[name]), name
