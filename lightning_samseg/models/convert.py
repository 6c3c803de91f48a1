"""Names of the authors' CPC-SAM in ours, and the other way round.

What the authors' model has and never uses (IoU heads, contrastive projectors, mask downscaling, class embeddings beyond K) has no place
in ours and is dropped.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from lightning_samseg.models.attention import split_qkv

_RENAMED = (
    (re.compile(r"^(?:module\.)?sam\."), ""),
    (re.compile(r"^mask_decoder1\."), "mask_decoders.0."),
    (re.compile(r"^mask_decoder2\."), "mask_decoders.1."),
    (re.compile(r"^mask_decoder\."), "mask_decoders.0."),
    (re.compile(r"\.attn\.qkv\.qkv\."), ".attn.qkv."),
    (re.compile(r"\.attn\.qkv\.linear_([ab])_([qv])\.weight$"), r".attn.\2_proj.lora_\1.default.weight"),
)
_UNUSED = re.compile(r"iou_prediction_head|projecter|mask_downscaling|prompt_encoder\.point_embeddings")


def from_authors(state: Mapping[str, Tensor], num_channels: int) -> dict[str, Tensor]:
    """Translate a full state dict of the authors' model (``sam.*``) into that of :class:`BranchedSam` with LoRA on every block.

    Args:
        state: The authors' entries, as saved by ``LoRA_Sam.state_dict()``.
        num_channels: K, how many class embeddings to take.

    Returns:
        Entries for ``BranchedSam.load_state_dict``, complete if ``state`` is.
    """
    ours: dict[str, Tensor] = {}
    for key, value in state.items():
        name = key
        for pattern, replacement in _RENAMED:
            name = pattern.sub(replacement, name)
        if not _UNUSED.search(name):
            ours[name.replace(".lora_a.", ".lora_A.").replace(".lora_b.", ".lora_B.")] = value
    for prefix in {name[: name.index("qkv.")] for name in ours if ".attn.qkv." in name}:
        split_qkv(ours, prefix)
    adapted = {name.split(".lora_A.")[0] for name in ours if ".lora_A." in name}
    for name in list(ours):
        module, _, kind = name.rpartition(".")
        if module in adapted:
            ours[f"{module}.base_layer.{kind}"] = ours.pop(name)
    embeddings = [value for key, value in state.items() if "prompt_encoder.point_embeddings." in key]
    if embeddings:
        ours["prompt_encoder.class_embeddings.weight"] = torch.cat(embeddings[:num_channels])
    return ours
