"""Names of the authors' models in ours, and our adapted model in official SAM's names.

:func:`from_authors` and :func:`from_authors_adapter` read what CPC-SAM and SAMed save; :func:`merge_adapter` writes a
plain SAM. What the authors' models have and never use (IoU heads, contrastive projectors, mask downscaling, spare
embeddings) has no place in ours and is dropped.
"""

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lightning_samseg.errors import UserError
from lightning_samseg.models.sam_vit import fuse_qkv, split_qkv
from lightning_samseg.models.tiny_vit import fuse_qkv_state_dict

_RENAMED = (
    (re.compile(r"^(?:module\.)?sam\."), ""),
    (re.compile(r"^mask_decoder1\."), "mask_decoders.0."),
    (re.compile(r"^mask_decoder2\."), "mask_decoders.1."),
    (re.compile(r"^mask_decoder\."), "mask_decoders.0."),
    (re.compile(r"\.attn\.qkv\.qkv\."), ".attn.qkv."),
    (re.compile(r"\.attn\.qkv\.linear_([ab])_([qv])\.weight$"), r".attn.\2_proj.lora_\1.default.weight"),
)
_UNUSED = re.compile(r"iou_prediction_head|projecter|mask_downscaling|prompt_encoder\.point_embeddings")
_NUMBERED = re.compile(r"w_([ab])_(\d+)")
SAM_POINT_EMBEDDINGS = 4
"""Negative point, positive point, two box corners."""


def from_authors(state: Mapping[str, Tensor], num_channels: int) -> dict[str, Tensor]:
    """Translate a full state dict of the authors' model (``sam.*``) into that of :class:`BranchedSam`.

    Args:
        state: The authors' entries, as saved by ``LoRA_Sam.state_dict()``.
        num_channels: K, how many class embeddings to take. Where there are fewer (SAMed has SAM's four, and never uses
            them), the others become zero: in the authors' code a point of such a class has a place and no embedding.

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
        zeros = embeddings[0].new_zeros(max(0, num_channels - len(embeddings)), embeddings[0].shape[1])
        ours["prompt_encoder.class_embeddings.weight"] = torch.cat([*embeddings[:num_channels], zeros])
    return ours


def is_authors_adapter(state: Mapping[str, Tensor]) -> bool:
    """Whether these are entries that ``LoRA_Sam.save_lora_parameters`` of SAMed or CPC-SAM has written."""
    return any(_NUMBERED.fullmatch(key) for key in state)


def from_authors_adapter(
    state: Mapping[str, Tensor], depth: int, blocks: Sequence[int] | None = None, source: str = "the file"
) -> dict[str, Tensor]:
    """Translate a checkpoint of SAMed or CPC-SAM, without image encoder, into entries of :class:`BranchedSam`.

    ``w_a_000, w_b_000, w_a_001, …`` are the LoRA matrices A and B of q and v in turn, adapted block by adapted block.

    Args:
        state: Entries ``w_a_*``, ``w_b_*``, ``prompt_encoder.*`` and ``mask_decoder.*`` (SAMed), or
            ``mask_decoder1.*`` and ``mask_decoder2.*`` (CPC-SAM).
        depth: Blocks of the image encoder.
        blocks: Adapted blocks; None for all.
        source: What to call the file in messages.

    Returns:
        The LoRA, prompt encoder and decoder entries, the LoRA scale being 1.

    Raises:
        UserError: If LoRA matrices or mask tokens are missing, or their number is not that of the blocks.
    """
    numbered = {key: (match[1], int(match[2])) for key in state if (match := _NUMBERED.fullmatch(key))}
    count = 1 + max((index for _, index in numbered.values()), default=-1)
    tokens = [key for key in state if re.fullmatch(r"mask_decoder1?\.mask_tokens\.weight", key)]
    missing = [key for i in range(count + count % 2) for key in (f"w_a_{i:03d}", f"w_b_{i:03d}") if key not in state]
    missing += [] if tokens else ["mask_decoder.mask_tokens.weight"]
    if missing:
        raise UserError(
            f"{source} is incomplete.",
            expected="pairs w_a_000, w_b_000, … without a gap, prompt_encoder.* and mask_decoder*.*",
            found=f"{len(missing)} missing entries: {', '.join(missing[:5])}",
            fix="save it again with the authors' save_lora_parameters, or copy it again",
        )
    chosen = list(range(depth)) if blocks is None else sorted(set(blocks))
    if count != 2 * len(chosen) or not all(0 <= block < depth for block in chosen):
        raise UserError(
            f"The LoRA matrices of {source} do not tell which blocks they belong to.",
            expected=f"q and v of {len(chosen)} blocks among 0 to {depth - 1}: {2 * len(chosen)} pairs",
            found=f"{count} pairs w_a_*, w_b_*",
            fix="name the adapted blocks, for example --lora-blocks 8,9,10,11, or another --backbone",
        )
    renamed = dict(state)
    for key, (kind, index) in numbered.items():
        attention = f"image_encoder.blocks.{chosen[index // 2]}.attn"
        renamed[f"{attention}.qkv.linear_{kind}_{'qv'[index % 2]}.weight"] = renamed.pop(key)
    return from_authors(renamed, len(state[tokens[0]]))


def merge_adapter(
    base: Mapping[str, Tensor], adapter: Mapping[str, Tensor], lora_scale: float
) -> tuple[dict[str, Tensor], list[str]]:
    """Work an adapter into its base weights: a plain SAM in official names, for any program that reads one.

    The encoder becomes ``W + scale B A`` in the queries and values; position tables keep the base's size. Classes 0 to
    3 become SAM's four point embeddings. A decoder with one mask per class is no SAM decoder: the base's stays. Of a
    single branch that ends at four times the embedding (SAMed), transformer, fifth token and upscaling are taken over,
    but not the mask tokens and hypernetworks, whose masks mean something else.

    Args:
        base: The complete base checkpoint in official names.
        adapter: Trained entries of :class:`BranchedSam`.
        lora_scale: ``alpha / rank``.

    Returns:
        A state dict with exactly the base's names, shapes and dtypes, and notes on what it could not hold.

    Raises:
        UserError: If the base lacks what the adapter changes.
    """
    updates = _attention_updates(adapter, base, lora_scale)
    classes = adapter["prompt_encoder.class_embeddings.weight"]
    changed = {
        f"prompt_encoder.point_embeddings.{index}.weight": embedding[None]
        for index, embedding in enumerate(classes[:SAM_POINT_EMBEDDINGS])
    }
    shared = ("pe_layer.positional_encoding_gaussian_matrix", "not_a_point_embed.weight", "no_mask_embed.weight")
    changed |= {f"prompt_encoder.{name}": adapter[f"prompt_encoder.{name}"] for name in shared}
    decoder = _sam_shaped_decoder(base, adapter)
    changed |= decoder
    wrong = [key for key, value in (updates | changed).items() if key not in base or base[key].shape != value.shape]
    if wrong:
        raise UserError(
            "The adapter does not fit the base weights.",
            expected="a complete official SAM checkpoint of the adapter's backbone",
            found=f"{len(wrong)} entries missing or of another shape: {', '.join(wrong[:3])}",
            fix="give the base weights that the adapter was trained from with --checkpoint FILE",
        )
    merged = {}
    for key, value in base.items():
        new = value.double() + updates[key] if key in updates else changed.get(key, value)
        merged[key] = new.to(value.dtype).contiguous()
    notes = []
    if len(classes) > SAM_POINT_EMBEDDINGS:
        notes.append(f"class embeddings {SAM_POINT_EMBEDDINGS} to {len(classes) - 1} are left out: SAM has four")
    if decoder:
        notes.append(
            "transformer and upscaling of the decoder are the adapter's, mask tokens and hypernetworks the base's"
        )
    else:
        notes.append("the decoder is the base's: SAM has no place for several branches or full-size logits")
    return merged, notes


def _attention_updates(
    adapter: Mapping[str, Tensor], base: Mapping[str, Tensor], lora_scale: float
) -> dict[str, Tensor]:
    """What LoRA adds to each fused ``qkv.weight``, under its official name, in float64."""
    updates: dict[str, Tensor] = {}
    for key in adapter:
        if key.endswith("q_proj.lora_A.default.weight"):
            prefix = key.removesuffix("q_proj.lora_A.default.weight")
            for name in "qv":
                down, up = (adapter[f"{prefix}{name}_proj.lora_{m}.default.weight"].double() for m in "AB")
                updates[f"{prefix}{name}_proj.weight"] = lora_scale * up @ down
            updates[f"{prefix}k_proj.weight"] = torch.zeros_like(updates[f"{prefix}q_proj.weight"])
    # An update has the row order of what it is added to; LiteMedSAM's depends on the heads, which these entries tell.
    biases = {key: value for key, value in base.items() if key.endswith(".attention_biases")}
    fused = fuse_qkv(fuse_qkv_state_dict(updates | biases))
    return {key: update for key, update in fused.items() if key not in biases}


def _sam_shaped_decoder(base: Mapping[str, Tensor], adapter: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Parts of a single branch's decoder that SAM's has in the same shape; empty unless all of them agree."""
    prefixes = ("mask_decoder.transformer.", "mask_decoder.iou_token.", "mask_decoder.output_upscaling.")
    own = {key.replace("mask_decoders.0.", "mask_decoder."): value for key, value in adapter.items()}
    parts = {key: value for key, value in own.items() if key.startswith(prefixes)}
    official = {key: value.shape for key, value in base.items() if key.startswith(prefixes)}
    single = not any(key.startswith("mask_decoders.1.") for key in adapter)
    return parts if single and official == {key: value.shape for key, value in parts.items()} else {}
