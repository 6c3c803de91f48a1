"""Low-rank adaptation of an image encoder's query and value projections, by peft.

LoRA (Hu et al. 2022): a frozen Linear ``W x`` becomes ``W x + (alpha / r) B A x`` with ``A`` (r x d) drawn at random
and ``B`` (d x r) zero. SAMed and CPC-SAM use r = 4 and scale 1 on q and v of every block, without dropout and without
touching k: here ``alpha = r``.
"""

from collections.abc import Sequence

from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import nn

from lightning_samseg.errors import UserError


def attention_names(encoder: nn.Module) -> list[str]:
    """Names of the attention modules that can be adapted, from the input to the output."""
    return [name.removesuffix(".q_proj") for name, _ in encoder.named_modules() if name.endswith(".q_proj")]


def add_lora(encoder: nn.Module, rank: int = 4, alpha: float = 4.0, blocks: Sequence[int] | None = None) -> None:
    """Freeze ``encoder`` and put LoRA on ``q_proj`` and ``v_proj``, in place.

    Args:
        encoder: An image encoder whose attention has ``q_proj`` and ``v_proj``.
        rank: r; 0 freezes the encoder and adds nothing.
        alpha: Scale numerator; the update is scaled by ``alpha / rank``.
        blocks: Attention blocks to adapt, counted from the input, negative from the output; None for all.

    Raises:
        UserError: If ``rank`` is negative or a block does not exist.
    """
    encoder.requires_grad_(False)
    if rank < 0:
        raise UserError(
            "LoRA has an impossible rank.", expected="0 or more", found=str(rank), fix="set --model.adapter.rank 4"
        )
    names = attention_names(encoder)
    chosen = range(len(names)) if blocks is None else blocks
    wrong = [block for block in chosen if not -len(names) <= block < len(names)]
    if wrong:
        raise UserError(
            "LoRA is asked for in attention blocks that the encoder does not have.",
            expected=f"numbers from 0 to {len(names) - 1} (or -1 to -{len(names)} from the output)",
            found=", ".join(map(str, wrong)),
            fix="correct --model.adapter.blocks",
        )
    targets = [f"{names[block]}.{projection}" for block in chosen for projection in ("q_proj", "v_proj")]
    if rank and targets:
        config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=0.0, bias="none", target_modules=targets)
        inject_adapter_in_model(config, encoder)
        for module in encoder.modules():
            if isinstance(module, LoraLayer):  # else it casts what autocast has cast back to float32, to be cast again
                module.cast_input_dtype_enabled = False
