"""Adapters: what a run has trained, without the pretrained weights beneath it, in one file that describes itself.

The tensors are those of :class:`BranchedSam` that are not the frozen encoder: LoRA or bottlenecks, prompt encoder (with
the matrix of its position encoding) and decoders. The safetensors metadata tells, as JSON, what is needed to rebuild
the model: its architecture, the sha256 of the pretrained weights, how the training images were prepared, the method
with its arguments, and the version that wrote the file. A file is read and written only if all of this is consistent.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from lightning_samseg import __version__
from lightning_samseg.errors import UserError
from lightning_samseg.io.files import atomic_write
from lightning_samseg.models.backbones import BACKBONES, CHECKPOINTS, BackboneName
from lightning_samseg.models.bottleneck import MSA_KEY, find_msa
from lightning_samseg.models.branched_sam import BranchedSam
from lightning_samseg.models.image_encoders import build_image_encoder
from lightning_samseg.models.lora import attention_names
from lightning_samseg.models.sam_config import AdapterConfig, AdapterKind, PretrainedSam, Upsampling

FORMAT = "1"
_MASK_TOKENS = "mask_decoders.{}.mask_tokens.weight"


@dataclass(frozen=True)
class Architecture:
    """What decides shape and function of a :class:`BranchedSam`, under the names that adapter files have for it.

    Those of the other kind of adapter have one value each: rank and scale of LoRA 0 beside bottlenecks.
    """

    backbone: BackboneName
    image_size: int
    num_classes: int
    branches: int
    upsampling: Upsampling
    lora_rank: int
    lora_alpha: float
    lora_blocks: list[int] | None
    # Files from before there were bottlenecks do not tell.
    adapter_kind: AdapterKind = "lora"
    msa_ratio: float = 0.25
    msa_scale: float = 0.5

    def build(self, checkpoint: str | None = None, pretrained: bool = True) -> BranchedSam:
        """The model that an adapter of this architecture is loaded into; the arguments are those of its SAM."""
        return BranchedSam(
            PretrainedSam(self.backbone, checkpoint, pretrained),
            self.image_size,
            self.num_classes,
            self.branches,
            upsampling=self.upsampling,
            adapter=AdapterConfig(
                None,
                self.adapter_kind,
                self.lora_rank,
                self.lora_alpha,
                self.lora_blocks,
                self.msa_ratio,
                self.msa_scale,
            ),
        )


@dataclass(frozen=True)
class Adapter:
    """The content of an adapter file."""

    architecture: Architecture
    tensors: dict[str, Tensor]
    """Entries of ``BranchedSam.state_dict()`` that are not the frozen encoder's, on the CPU."""
    base_weights_sha256: str | None
    """Of the checkpoint file the encoder was loaded from; None for random weights."""
    method: dict[str, Any] | None = None
    """``class_path`` and ``init_args`` of the method that trained it, as under ``model`` in a config."""
    view: dict[str, Any] | None = None
    """How its training images were prepared: ``resize``, ``normalise``, ``grey`` and ``geometry`` of the data module;
    None where nobody said."""
    framework_version: str = __version__
    git_commit: str | None = None


def save_adapter(
    sam: BranchedSam,
    path: str | Path,
    backbone: BackboneName,
    method: dict[str, Any] | None = None,
    git_commit: str | None = None,
) -> Adapter:
    """Write the trained part of a model.

    Args:
        sam: The model. All but the name of its backbone is read off it.
        path: File to write, ``.safetensors``; replaced if it is there.
        backbone: What the model was built with.
        method: ``class_path`` and ``init_args`` of the method, for the record.
        git_commit: Commit of the code that trained it, for the record.

    Returns:
        What was written.

    Raises:
        UserError: If an entry holds NaN or infinity, or ``backbone`` is not the model's.
    """
    tensors = trained_part(sam.state_dict())
    architecture = infer_architecture(tensors, backbone, sam.prompt_encoder.image_size, **_scales(sam))
    adapter = Adapter(architecture, tensors, sam.weights_sha256, method, git_commit=git_commit)
    write_adapter(adapter, path)
    return adapter


def load_adapter(path: str | Path, checkpoint: str | None = None, allow_other_base: bool = False) -> BranchedSam:
    """Build the model that an adapter describes, from its pretrained weights and the adapter.

    Args:
        path: Adapter file.
        checkpoint: Pretrained weights in official names instead of the cached ones.
        allow_other_base: Whether other pretrained weights than the adapter was made on will do.

    Returns:
        The model, on the CPU.

    Raises:
        UserError: If the file is not a valid adapter, or the pretrained weights are missing or others.
    """
    return build_adapted(read_adapter(path), path, checkpoint, allow_other_base)


def build_adapted(
    adapter: Adapter, source: str | Path, checkpoint: str | None = None, allow_other_base: bool = False
) -> BranchedSam:
    """Build the model of an adapter that has been read already; else as :func:`load_adapter`.

    Args:
        adapter: Its content.
        source: What to call it in messages.
        checkpoint: See :func:`load_adapter`.
        allow_other_base: See :func:`load_adapter`.
    """
    sam = adapter.architecture.build(checkpoint)
    _load(sam, adapter, source, allow_other_base)
    return sam


def load_adapter_into(sam: BranchedSam, path: str | Path, allow_other_base: bool = False) -> None:
    """Replace the trained part of a model by an adapter's, in place.

    Args:
        sam: A model of the adapter's architecture, with the pretrained weights it was made on.
        path: Adapter file.
        allow_other_base: Whether other pretrained weights will do.

    Raises:
        UserError: If the file is not a valid adapter, or is of another backbone, architecture (the message lists the
            differing entries) or pretrained weights. The model is unchanged then.
    """
    _load(sam, read_adapter(path), path, allow_other_base)


def read_adapter(path: str | Path) -> Adapter:
    """Read an adapter file, checked to be complete, without building a model with weights.

    Raises:
        UserError: If it is missing, damaged, something else, of an unknown version, or holds NaN or infinity, or its
            tensors are not those of the architecture it states (the message lists the differing entries).
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"There is no adapter {path}.", fix="check the path")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - the handle is no mapping
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path} cannot be read as an adapter.",
            expected="a complete .safetensors file made by `weights export` or `weights import`",
            found=f"{path.stat().st_size:,} bytes; {error}",
            fix=f"copy or make it again; for a training checkpoint or the authors' files run {_maker(path)}",
        ) from error
    if (version := metadata.get("adapter_format")) != FORMAT:
        raise UserError(
            f"{path} is not an adapter that this version knows.",
            expected=f"a safetensors file with adapter_format {FORMAT} in its metadata",
            found="no adapter_format" if version is None else f"adapter_format {version}",
            fix="give a file made by `weights export` or `weights import`, or update lightning_samseg",
        )
    try:
        values = {name: json.loads(text) for name, text in metadata.items() if name not in ("format", "adapter_format")}
        architecture = Architecture(**values.pop("architecture"))
        if architecture.backbone not in BACKBONES:
            raise ValueError(f"unknown backbone {architecture.backbone}")
        adapter = Adapter(architecture, tensors, **values)
        check_adapter(adapter, str(path))
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(
            f"The description inside {path} is damaged.",
            expected="the metadata that `weights export` writes",
            found=f"{type(error).__name__}: {error}",
            fix="export or import the adapter again",
        ) from error
    return adapter


def write_adapter(adapter: Adapter, path: str | Path) -> None:
    """Write an adapter file, whole or not at all.

    Raises:
        UserError: If the tensors are not those of the architecture, or hold NaN or infinity.
    """
    check_adapter(adapter, f"The adapter for {path}")
    names = ("base_weights_sha256", "method", "view", "framework_version", "git_commit")
    described = {name: getattr(adapter, name) for name in names}
    described["architecture"] = asdict(adapter.architecture)
    metadata = {name: json.dumps(value, sort_keys=True, default=str) for name, value in described.items()}
    tensors = {key: value.detach().cpu().contiguous().clone() for key, value in adapter.tensors.items()}
    with atomic_write(path) as temporary:
        temporary.write_bytes(save(tensors, {"format": "pt", "adapter_format": FORMAT, **metadata}))


def trained_part(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The entries of ``BranchedSam.state_dict()`` that belong into an adapter: all but the frozen encoder."""
    return {
        key: value
        for key, value in state.items()
        if not key.startswith("image_encoder.") or ".lora_" in key or MSA_KEY in key
    }


def infer_architecture(
    tensors: Mapping[str, Tensor],
    backbone: BackboneName,
    image_size: int,
    lora_alpha: float | None = None,
    msa_ratio: float = 0.25,
    msa_scale: float = 0.5,
) -> Architecture:
    """Read an architecture off the shapes of the trained entries; what they do not tell is given.

    Args:
        tensors: Entries of :func:`trained_part`.
        backbone: Which image encoder.
        image_size: S, a multiple of 16.
        lora_alpha: LoRA's scale numerator; None for the rank, the scale 1 of SAMed and CPC-SAM.
        msa_ratio: Width of the bottlenecks, if there are any.
        msa_scale: Their scale.

    Raises:
        UserError: If there is no decoder.
    """
    if _MASK_TOKENS.format(0) not in tensors:
        raise UserError(
            "There is no class mask decoder to make an adapter from.",
            expected=f"an entry {_MASK_TOKENS.format(0)}",
            found=", ".join(list(tensors)[:3]) or "no entries",
            fix="give the weights of an adapted SAM",
        )
    branches = sum(re.fullmatch(_MASK_TOKENS.format(r"\d+"), key) is not None for key in tensors)
    stages = sum(
        key.startswith("mask_decoders.0.output_upscaling.") and value.ndim == 4 for key, value in tensors.items()
    )
    full = 2**stages == BACKBONES[backbone].stride
    with torch.device("meta"):
        names = attention_names(build_image_encoder(backbone, image_size))
    down = [tensors.get(f"image_encoder.{name}.q_proj.lora_A.default.weight") for name in names]
    rank = next((len(matrix) for matrix in down if matrix is not None), 0)
    blocks = [index for index, matrix in enumerate(down) if matrix is not None]
    msa = any(MSA_KEY in key for key in tensors)
    return Architecture(
        backbone=backbone,
        image_size=image_size,
        num_classes=len(tensors[_MASK_TOKENS.format(0)]) - 1,
        branches=branches,
        upsampling="full" if full else "sam",
        lora_rank=rank,
        lora_alpha=0.0 if rank == 0 else float(rank if lora_alpha is None else lora_alpha),
        lora_blocks=None if len(blocks) in (0, len(names)) else blocks,
        adapter_kind="msa" if msa else "lora",
        msa_ratio=msa_ratio if msa else 0.25,
        msa_scale=msa_scale if msa else 0.5,
    )


def check_base(adapter: Adapter, sha256: str | None, source: str) -> None:
    """Raise UserError unless an adapter was made on the pretrained weights with this hash."""
    if adapter.base_weights_sha256 != sha256:
        raise UserError(
            f"{source} was made on other pretrained weights.",
            expected=_named(adapter.base_weights_sha256),
            found=_named(sha256),
            fix="choose the backbone or checkpoint it was made on, or, if other weights are meant, say so "
            "(allow_other_base in Python, --allow-other-base of `weights merge`)",
        )


def check_adapter(adapter: Adapter, source: str) -> None:
    """Raise UserError unless the tensors are finite and exactly those of the architecture."""
    with torch.device("meta"):
        sam = adapter.architecture.build(pretrained=False)
    expected = {key: value.shape for key, value in trained_part(sam.state_dict()).items()}
    found = _differences(expected, {key: value.shape for key, value in adapter.tensors.items()})
    if found:
        raise UserError(
            f"{source} does not hold the entries of its model.",
            expected=", ".join(f"{name} {value}" for name, value in asdict(adapter.architecture).items()),
            found=found,
            fix="make or copy the file again; check the backbone",
        )
    broken = [key for key, value in adapter.tensors.items() if not value.isfinite().all()]
    if broken:
        raise UserError(
            f"{source} holds numbers that are not finite.",
            found=f"NaN or infinity in {len(broken)} entries: {', '.join(broken[:3])}",
            fix="use weights from before the training diverged, such as best.ckpt",
        )


def _load(sam: BranchedSam, adapter: Adapter, path: str | Path, allow_other_base: bool) -> None:
    own_backbones = _alike(sam.backbone)
    if adapter.architecture.backbone not in own_backbones:
        raise UserError(
            f"The adapter {path} is for another backbone.",
            expected=" or ".join(own_backbones),
            found=adapter.architecture.backbone,
            fix=f"set --model.sam.backbone {adapter.architecture.backbone}",
        )
    own = trained_part(sam.state_dict())
    architecture = infer_architecture(own, adapter.architecture.backbone, sam.prompt_encoder.image_size, **_scales(sam))
    if adapter.architecture != architecture:
        theirs, ours = asdict(adapter.architecture), asdict(architecture)
        fields = [f"{name} {theirs[name]} (model: {ours[name]})" for name in theirs if theirs[name] != ours[name]]
        entries = _differences({k: v.shape for k, v in own.items()}, {k: v.shape for k, v in adapter.tensors.items()})
        raise UserError(
            f"The adapter {path} is for another model.",
            expected="the architecture it was trained with",
            found="; ".join([", ".join(fields), *([entries] if entries else [])]),
            fix="build the model with the adapter's values, or choose another adapter",
        )
    if not allow_other_base:
        check_base(adapter, sam.weights_sha256, str(path))
    sam.load_state_dict(adapter.tensors, strict=False)  # strict already: the frozen encoder is all that is left out


def _differences(expected: Mapping[str, torch.Size], found: Mapping[str, torch.Size]) -> str:
    """The differing entries, the first three by name; empty if there are none."""
    differing = [key for key in sorted({*expected, *found}) if expected.get(key) != found.get(key)]

    def explain(key: str) -> str:
        if key not in found:
            return f"{key} is missing"
        if key not in expected:
            return f"{key} is unknown"
        return f"{key} is {tuple(found[key])} instead of {tuple(expected[key])}"

    return f"{len(differing)} differing entries: {'; '.join(map(explain, differing[:3]))}" if differing else ""


def _scales(sam: BranchedSam) -> dict[str, float]:
    """What :func:`infer_architecture` cannot read off the entries."""
    if msa := find_msa(sam.image_encoder):
        return {"msa_ratio": msa[0], "msa_scale": msa[1]}
    layers = [module for module in sam.modules() if isinstance(module, LoraLayer)]
    return {"lora_alpha": float(layers[0].lora_alpha["default"])} if layers else {}


def _alike(backbone: BackboneName) -> list[str]:
    """The backbones whose encoder is built alike: weights of one fit the others."""
    own = BACKBONES[backbone]
    return [each.name for each in BACKBONES.values() if (each.encoder, each.shape) == (own.encoder, own.shape)]


def _named(sha256: str | None) -> str:
    if sha256 is None:
        return "random weights"
    name = next((checkpoint.name for checkpoint in CHECKPOINTS.values() if checkpoint.sha256 == sha256), None)
    return f"sha256 {sha256}" + (f" ({name})" if name else "")


def _maker(path: Path) -> str:
    return f"`python -m lightning_samseg weights {'export' if path.suffix == '.ckpt' else 'import'} {path} --out …`"
