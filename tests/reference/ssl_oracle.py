"""Numbers recorded from the authors' semi-supervised trainers, the rules they were made with, and our slice of them.

Each trainer ran three iterations in float64 on small inputs made by rules. ``terms``: the losses of an iteration, named
by ``meta``. ``norm_at_step``: Euclidean norms of the network's state just before an optimizer step, in the order of the
authors' keys; ``grad_norm``: of the gradients, -1 for none; ``end``: norms after the third step. A new slice is cut by
``python -m tests.reference.ssl_oracle FILE``.
"""

import json
import sys
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import torch
from torch import Tensor, nn

SLICE = Path(__file__).with_name("ssl_slice.npz")
SHARED = Path(__file__).parents[2].parent / "shared" / "oracle" / "ssl_baselines.npz"
SIDE, CHANNELS = 32, 4
MAPS = {
    "uamt.it0": ("mask",),
    "cps.it0": ("pseudo_outputs1",),
    "urpc.it0": ("variance_aux1",),
    "mcnet.it0": ("pseudo1_slice",),
    "dcnet.it0": ("mask_high", "at_each"),
    "bcp.self.it0": ("plab_a", "plab_b"),
    "unimatch.it0": ("mask_u_w", "mask_u_w_mix", "kept_1"),
}
"""Maps that the slice keeps of iteration 0."""
LOGITS = {
    "uamt.it0.outputs": np.s_[:1, :, ::4, ::4],
    "urpc.it0.outputs_aux3": np.s_[:1, :, ::4, ::4],
    "mcnet.it0.output2": np.s_[:1, :, ::4, ::4],
    "mcnet.it0.output3": np.s_[:1, :, ::4, ::4],
}
"""Logits that the slice keeps, thinned out."""
NUMBERS = ("terms", "lr", "norm_at_step", "grad_norm", "norm", "num_batches_tracked", "boxes", "box", "mask_ratio")


class SslOracle:
    """The shared recording where it is, else the committed slice."""

    def __init__(self, path: Path | None = None) -> None:
        with np.load(path or (SHARED if SHARED.is_file() else SLICE)) as file:
            self.arrays = {key: file[key] for key in file.files}
        self.meta: dict[str, Any] = json.loads(str(self.arrays["meta"]))
        self.is_slice = "is_slice" in self.arrays

    def __getitem__(self, key: str) -> np.ndarray:
        return self.arrays[key]

    def keys_of(self, network: str) -> list[tuple[str, list[int]]]:
        """The authors' state dict without counters, and without URPC's head that is never used."""
        return [(key, shape) for key, shape in self.meta["networks"][network] if "out_conv_dp4" not in key]

    def kept(self, network: str, gradients: bool = False) -> np.ndarray:
        """Which entries of an array of norms belong to ``keys_of``."""
        keys = [key for key, _ in self.meta["networks"][network] if not (gradients and "running_" in key)]
        return np.array(["out_conv_dp4" not in key for key in keys])

    def fill(self, ours: nn.Module, network: str, salt: str = "") -> None:
        """Give a network of ours the authors' weights, entry by entry in the order the layers are built."""
        state = {key: value for key, value in ours.state_dict().items() if not key.endswith("num_batches_tracked")}
        named = self.keys_of(network)
        assert [list(value.shape) for value in state.values()] == [shape for _, shape in named]
        for value, (key, shape) in zip(state.values(), named, strict=True):
            value.copy_(weight(key, tuple(shape), salt))


def state_of(rule: str) -> np.random.RandomState:
    return np.random.RandomState(crc32(rule.encode()))


def rule_array(values: np.ndarray) -> np.ndarray:
    """All of the recording's inputs were rounded to float32."""
    return values.astype(np.float32).astype(np.float64)


def uniform(rule: str, shape: tuple[int, ...]) -> Tensor:
    return torch.from_numpy(rule_array(state_of(rule).random_sample(shape)))


def normal(rule: str, shape: tuple[int, ...]) -> Tensor:
    return torch.from_numpy(rule_array(state_of(rule).standard_normal(shape)))


def weight(key: str, shape: tuple[int, ...], salt: str = "") -> Tensor:
    noise = state_of(key + salt).standard_normal(shape)
    if key.endswith("running_var") or (len(shape) == 1 and key.endswith("weight")):
        return torch.from_numpy(rule_array(1 + 0.05 * noise))
    if len(shape) == 1:
        return torch.from_numpy(rule_array(0.05 * noise))
    gain, fan_in = (8 if "out_conv" in key else 1.3), np.prod(shape[1:])
    if ".up." in key:
        gain, fan_in = 1.3, shape[0]
    return torch.from_numpy(rule_array(gain * noise / np.sqrt(fan_in)))


def image(name: str, count: int) -> Tensor:
    coarse = state_of(f"image.{name}.coarse").random_sample((count, 1, 4, 4))
    fine = state_of(f"image.{name}.fine").random_sample((count, 1, SIDE, SIDE))
    return torch.from_numpy(rule_array(0.8 * np.kron(coarse, np.ones((8, 8))) + 0.2 * fine))


def label(name: str, count: int, side: int = SIDE, classes: int = CHANNELS) -> Tensor:
    blocks = state_of(f"label.{name}").randint(0, classes, (count, side // 8, side // 8))
    return torch.from_numpy(np.kron(blocks, np.ones((8, 8), np.int64)))


def write_slice(source: Path, target: Path) -> None:
    """Cut the committed slice out of the whole recording."""
    with np.load(source) as file:
        kept = {key for key in file.files if key.split(".")[-1] in NUMBERS}
        kept |= {key for key in file.files if key.startswith(("check.", "dcnet.confident", "unimatch.aug", "semisam"))}
        kept |= {
            key
            for key in file.files
            if "." in key and key.split(".")[1] in ("ramp", "components", "boxes256", "mix_loss")
        }
        kept |= {f"{group}.{name}" for group, names in MAPS.items() for name in names} | {"unimatch.cutmix256"}
        arrays = {key: file[key] for key in sorted(kept)} | {key: file[key][index] for key, index in LOGITS.items()}
        meta = json.dumps(json.loads(str(file["meta"])), separators=(",", ":"))
    np.savez_compressed(target, is_slice=True, meta=np.array(meta), **arrays)


if __name__ == "__main__":
    write_slice(Path(sys.argv[1]), SLICE)
    print(f"{SLICE}: {SLICE.stat().st_size / 1000:.0f} kB")
