"""A tiny SAM of the package segment-anything with generated weights, and a model of ours that was "trained" on top."""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import Tensor, nn

from lightning_samseg.models.backbones import BACKBONES
from lightning_samseg.models.branched_sam import BranchedSam
from lightning_samseg.models.sam_config import AdapterConfig, PretrainedSam
from lightning_samseg.moved_arguments import MOVED


def tiny_sam(image_size: int, masks: int = 3) -> Sam:
    """What the package builds, at the width of the backbone `tiny`."""
    shape = BACKBONES["tiny"].shape
    assert shape is not None
    side = image_size // 16
    encoder = ImageEncoderViT(
        img_size=image_size,
        embed_dim=shape.dim,
        depth=BACKBONES["tiny"].attention_blocks,
        num_heads=shape.heads,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=14,
        global_attn_indexes=shape.global_blocks,
    )
    prompts = PromptEncoder(
        embed_dim=256, image_embedding_size=(side, side), input_image_size=(image_size, image_size), mask_in_chans=16
    )
    transformer = TwoWayTransformer(depth=2, embedding_dim=256, mlp_dim=2048, num_heads=8)
    decoder = MaskDecoder(transformer_dim=256, transformer=transformer, num_multimask_outputs=masks)
    return Sam(encoder, prompts, decoder).eval()


def write_tiny_sam(path: Path, image_size: int = 64, seed: int = 0) -> Path:
    """A checkpoint of it in official names. Position tables, zero in a new model, are filled, too."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        sam = tiny_sam(image_size)
        _perturb(sam.image_encoder)
    torch.save(sam.state_dict(), path)
    return path


def branched_sam(backbone: Any, image_size: int, num_classes: int, **options: Any) -> BranchedSam:
    """A model of ours, adapter and weights by the short names that adapter files have for them."""
    moved = MOVED["SAMed"]
    groups: dict[str, dict[str, Any]] = {"sam": {"backbone": backbone}, "adapter": {}}
    for name in [name for name in options if "." in moved.get(name, "")]:
        group, _, option = moved[name].partition(".")
        groups[group][option] = options.pop(name)
    sam, adapter = PretrainedSam(**groups["sam"]), AdapterConfig(**groups["adapter"])
    return BranchedSam(sam, image_size, num_classes, adapter=adapter, **options)


def trained_model(backbone: Any, image_size: int, num_classes: int, seed: int = 1, **options: Any) -> BranchedSam:
    """An adapted model whose trained entries have all moved away from the base: B of LoRA is not zero."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = branched_sam(backbone, image_size, num_classes, **options)
        _perturb(model.image_encoder)
        _perturb(model.prompt_encoder)  # the decoders start at random anyway
    return model.eval()


def authors_adapter(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The entries that the authors' ``save_lora_parameters`` writes, out of all entries ``sam.*`` of their model."""
    encoder, lora = "sam.image_encoder.", {}
    depth = 1 + max(int(key.split(".")[3]) for key in state if key.startswith(f"{encoder}blocks."))
    for index in range(2 * depth):
        for m in "ab":
            name = f"{encoder}blocks.{index // 2}.attn.qkv.linear_{m}_{'qv'[index % 2]}.weight"
            lora[f"w_{m}_{index:03d}"] = state[name]
    return lora | {key.removeprefix("sam."): value for key, value in state.items() if not key.startswith(encoder)}


def _perturb(module: nn.Module) -> None:
    for parameter in module.parameters():
        if parameter.requires_grad:
            parameter.data.add_(0.1 * torch.randn(parameter.shape))
