"""Numbers recorded from the authors' CPC-SAM, the weights they were recorded with, and the slice of them we commit.

Groups of keys: A embedding and unprompted logits, B prompted logits, C prompt rules, D losses, E training iterations of
the authors' trainer, F evaluation, G augmentation, sampler, learning rates. A new slice is cut by
``python -m tests.reference.oracle FILE``.
"""

import json
import sys
from math import prod, sqrt
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pytest
import torch
from torch import Tensor

SLICE = Path(__file__).with_name("cpc_sam_slice.npz")
SHARED = Path(__file__).parents[2].parent / "shared" / "oracle" / "cpc_sam.npz"

_COARSE = np.s_[:, :, ::16, ::16]
_FIRST = np.s_[:1, :, ::4, ::4]
RULE = 2
_SCALES = {"gaussian_matrix": 1.0, "iou_token": 1.0, "mask_tokens": 1.0, "point_embeddings": 1.0}
_SCALES |= {"not_a_point_embed": 1.0, "no_mask_embed": 1.0, "pos_embed": 0.5, "rel_pos": 0.2}
_GAINS = {"patch_embed": 4.0, "linear_b_": 0.2, "output_hypernetworks_mlps": 1.15}

KEEP: dict[str, tuple[slice, ...]] = {
    # One image is enough for the forward passes ...
    "x": np.s_[:1,],
    "label": (),
    "A_embedding": np.s_[:1, ::8],
    "A_dense_pe": np.s_[:, ::4],
    "A_low_res_logits1": _FIRST,
    "A_low_res_logits2": _FIRST,
    "B_points": (),
    "B_labels": (),
    "B_sparse": np.s_[:, :, ::4],
    "B_dense_shape": (),
    "B_dense_vec": np.s_[::4,],
    "B_prompted1": _FIRST,
    "B_prompted2": _FIRST,
    **{f"C_{name}": () for name in ("logits_argmax", "cc", "deepest", "seed")},
    **{f"C_{name}": () for name in ("center", "center_labels", "random", "random_labels")},
    # ... training needs whole batches: a warm-up iteration and one of three rounds, and the norms they lead to.
    **{f"E_it{i}_{name}": () for i in (0, 1) for name in ("x", "y")},
    **{f"E_it{i}_paramL2_before": () for i in (0, 1, 2)},
    **{f"E_it1_round{r}_{name}": () for r in (2, 3) for name in ("center", "random", "labels")},
    **{f"E_it{i}_round1_low_res_logits{d}": _COARSE for i in (0, 1) for d in (1, 2)},
    **{f"E_it1_round2_low_res_logits{d}": _COARSE for d in ("1", "1_r", "2")},
    **{f"E_it1_round3_low_res_logits{d}": _COARSE for d in ("1", "2", "2_r")},
    "E_grad_is_none_after": (),
    **{f"E_scalar_{name}": () for name in ("lr", "total_loss", "loss1", "loss2", "loss3", "consistency_weight")},
    **{f"E_scalar_loss_{name}": () for name in ("ce1", "dice1", "ce2", "dice2")},
    **{f"E_scalar_loss_round{r}_{n}1{s}": () for r in (2, 3) for n in ("ce", "dice") for s in ("", "_r")},
    **{f"E_scalar_consistency_loss{name}": () for name in ("1", "1_r", "2", "2_r")},
    **{f"F_{name}": () for name in ("lab", "test_pred_mean", "test_metrics_spacing_10_1.5_1.5", "metrics_selfcheck")},
    **{f"G_{name}": () for name in ("label", "out_label", "out_low")},
    **{f"G_{name}": () for name in ("sampler_epoch1", "sampler_epoch2", "sampler_len", "lr_k", "lr_used")},
}
"""What the committed slice keeps: key -> index."""


def find_recording(path: Path | None = None) -> Path:
    """The given file, else the shared recording, else the committed slice."""
    return path or (SHARED if SHARED.is_file() else SLICE)


class Oracle:
    """A recording, whole or sliced.

    Args:
        path: ``.npz`` file.
        salt: Text appended to every key before its weight is drawn; None for what the recording says, else none.

    Raises:
        pytest.UsageError: The weights were drawn by another rule or with another salt.

    Attributes:
        meta: ``image_size``, ``num_classes_fg``, ``rank``, ``encoder``, ``keys`` (name -> shape), ``trainable`` (names
            in the order of the ``paramL2`` arrays).
        is_slice: Whether keys are missing and arrays are thinned out.
        iterations: Recorded training iterations (group E).
    """

    def __init__(self, path: Path, salt: str | None = None) -> None:
        self.path = path
        with np.load(path) as file:
            self._arrays = {key: file[key] for key in file.files}
        self.meta: dict[str, Any] = json.loads(str(self._arrays["meta"]))
        if self.meta.get("rule") != RULE:
            raise pytest.UsageError(
                f"{path}: recorded with weights by rule {self.meta.get('rule', 1)}, and the tests draw them by rule "
                f"{RULE}; give a recording by rule {RULE} with --oracle FILE"
            )
        self.salt = str(self.meta.get("salt", "")) if salt is None else salt
        for array in self._arrays.values():
            array.flags.writeable = False  # one recording serves the whole session
        self._check_salt()
        self.is_slice = "is_slice" in self._arrays
        self.iterations = sum(f"E_it{i}_x" in self._arrays for i in range(100))

    def _check_salt(self) -> None:
        name, norm = self.meta["trainable"][0], self._arrays["E_it0_paramL2_before"][0]
        drawn = _weight(name, tuple(self.meta["keys"][name]), self.salt).double().norm().item()
        if abs(drawn - norm) > 1e-6 * norm:
            raise pytest.UsageError(
                f"{self.path}: {name} has the norm {norm:.6f}, and {drawn:.6f} if drawn with the salt {self.salt!r}; "
                "name the recording's salt with --oracle-salt TEXT"
            )

    def __contains__(self, key: str) -> bool:
        return key in self._arrays

    def __getitem__(self, key: str) -> np.ndarray:
        """An array as stored; ``x`` has one image in a slice. Skips the test where a slice lacks the key."""
        if self.is_slice and key not in self._arrays:
            pytest.skip(f"{key} is not in the committed slice; give the whole recording with --oracle FILE")
        return self._arrays[key]

    def tensor(self, key: str) -> Tensor:
        """An array as stored, as a tensor of its own."""
        return torch.tensor(self[key])

    def json(self, key: str) -> Any:
        """A stored JSON string, read."""
        return json.loads(str(self[key]))

    def assert_close(self, key: str, found: Tensor | np.ndarray, atol: float, rows: int | None = None) -> None:
        """Compare what we computed in full with what is stored, thinned out in the same way.

        Args:
            key: Stored array.
            found: Ours, of the shape of the whole recording's, but for ``rows``.
            atol: Largest allowed difference.
            rows: How many of the stored rows we computed; None for all.
        """
        recorded = self[key][:rows] if rows else self[key]
        array = found.detach().cpu().numpy() if isinstance(found, Tensor) else np.asarray(found)
        array = array[KEEP[key]] if self.is_slice else array
        assert array.shape == recorded.shape, f"{key}: shape {array.shape}, recorded {recorded.shape}"
        difference = np.abs(array.astype(np.float64) - recorded).max()
        assert difference <= atol, f"{key}: differs by {difference:.3g}, at most {atol:.3g} allowed"

    def weights(self, salt: str | None = None) -> dict[str, Tensor]:
        """Every tensor of the authors' state dict, drawn by the rule the recording was made with.

        Args:
            salt: Text appended to each key; default: the recording's.

        Returns:
            Official key -> float32 tensor; new tensors in every call.
        """
        salt = self.salt if salt is None else salt
        return {key: _weight(key, tuple(shape), salt) for key, shape in self.meta["keys"].items()}


def _weight(key: str, shape: tuple[int, ...], salt: str) -> Tensor:
    offset = 1.0 if len(shape) == 1 and key.endswith("weight") else 0.0
    noise = np.random.RandomState(crc32(f"{key}{salt}#56".encode())).standard_normal(shape)
    return torch.from_numpy((offset + noise * _scale(key, shape)).astype(np.float32))


def _scale(key: str, shape: tuple[int, ...]) -> float:
    """Scale of a weight's noise; the first rule that matches wins."""
    if len(shape) == 1:
        return 0.1
    for part, scale in _SCALES.items():
        if part in key:
            return scale
    gain = next((gain for part, gain in _GAINS.items() if part in key), 1.0)
    # The transposed convolutions have strides as large as their kernels: an output sums over input channels alone.
    fan_in = shape[0] if "output_upscaling" in key else prod(shape[1:])
    return gain / sqrt(fan_in)


def write_slice(source: Path, target: Path) -> None:
    """Cut the committed slice out of a whole recording."""
    with np.load(source) as file:
        arrays = {key: file[key][index] for key, index in KEEP.items()}
        meta = json.dumps(json.loads(str(file["meta"])), separators=(",", ":"))
    np.savez_compressed(target, is_slice=True, meta=np.array(meta), **arrays)


if __name__ == "__main__":
    write_slice(Path(sys.argv[1]), SLICE)
    print(f"{SLICE}: {SLICE.stat().st_size / 1000:.0f} kB")
