"""Whether a device multiplies bfloat16 itself, or is slower with it than with float32."""

from pathlib import Path

import torch


def multiplies_bf16(device: torch.device) -> bool:
    """Whether it has instructions for products of bfloat16: AMX, AVX512-BF16, Arm's; GPUs since Ampere.

    Args:
        device: A CPU that does not say what it has is taken for one without.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu":
        return False
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    return any(flag in flags for flag in ("avx512_bf16", "amx_bf16", " bf16"))
