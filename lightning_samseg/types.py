"""The data that travels through the framework, described once.

Symbols used in every docstring: ``B`` images per batch, ``S`` side of the square network input in pixels, ``C``
foreground classes, ``K = C + 1`` channels (channel 0 is background), ``E`` side of the image embedding, ``(H, W)`` size
of the source image. Points are ``(x, y)`` = (column, row) in pixels of the network input, as in SAM.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple, TypedDict

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor  # what reads files starts without torch

Geometry = Literal["half_pixel", "corner_aligned"]
"""How the pixels of two grids lie on each other when one is resized to the other.

``half_pixel``: the outer borders of both coincide, as in OpenCV and in PyTorch with ``align_corners=False``.
``corner_aligned``: the centres of their corner pixels coincide, output ``k`` is read at
``k (n_in - 1) / (n_out - 1)`` as in ``scipy.ndimage.zoom``, which CPC-SAM's published code uses both ways."""


PromptKind = Literal["box", "point"]
"""What says where an object is: a box ``(x0, y0, x1, y1)``, or a point on it ``(x, y)``."""

IGNORED = 255
"""Label of a pixel that counts for nothing: nobody says what it shows. It is no class: C is at most 254, and a method
never predicts it. Losses, scores and prompts made from references leave such pixels out; what an image is padded with
or rotated into view is background, as in CPC-SAM's code."""
NOT_A_POINT = -1
"""Label of a prompt's token that stands for no point, as in SAM's prompt encoder."""


class Case(NamedTuple):
    """Where one 2-D network input comes from. A named tuple, so that Lightning can move a batch without touching it."""

    case_id: str
    """Unit of evaluation: one image of a 2-D data set, or one volume whose slices share the id."""
    source: str
    """File the pixels were read from, for messages and overlays."""
    original_size: tuple[int, int]
    """``(H, W)`` of the source image or slice in pixels; predictions are scored at this size."""
    content_size: tuple[int, int]
    """``(h, w)`` of the top-left part of the ``S x S`` input that shows the image; ``(S, S)`` unless it is padded."""
    spacing: tuple[float, ...] | None = None
    """Voxel size in mm in array order, (row, column) or (slice, row, column); None where the data set does not tell."""
    slice_index: int = 0
    """Position of the slice in its volume, from 0."""
    num_slices: int = 1
    """Slices of the volume; 1 for an image. A volume is scored when all of its slices have arrived."""
    geometry: Geometry = "half_pixel"
    """How the image was resized to the network's input; the prediction goes back the same way."""


class Batch(TypedDict, total=False):
    """What every loader yields and every method takes. Keys that a data set cannot fill are absent, never empty."""

    image: "Tensor"
    """float32 ``(B, 3, S, S)``, normalised (in [0, 1] for ``minmax``)."""
    mask: "Tensor"
    """int64 ``(B, S, S)``, class ids 0..C or ``IGNORED`` at network size. Absent from unlabelled batches: no label can
    leak."""
    padding: "Tensor"
    """bool ``(B, S, S)``, True where the input shows no image; only where images are padded (``longest_side``)."""
    motion: "Tensor"
    """float32 ``(B, 2, 3)``, unlabelled batches of methods that ask for it: where the augmentation took each pixel
    from, as ``torch.nn.functional.affine_grid`` (``align_corners=False``) has it, in frames from -1 to 1."""
    cases: list[Case]
    """One entry per image."""
    reference: list[np.ndarray]
    """uint8 ``(H, W)`` class ids or ``IGNORED`` at the original size, evaluation batches only. NumPy, so that it stays
    on the host."""
    original: list[np.ndarray]
    """uint8 ``(H, W, 3)`` picture to draw overlays on, evaluation batches only."""


class StreamItem(TypedDict, total=False):
    """What online learning receives: one image at its own size. Keys that a data set cannot fill are absent.

    A list of these where a process takes several images per step.
    """

    position: int
    """Place in the stream from 0, the same whatever the number of processes."""
    set_position: int
    """Place among the images of its set, from 0."""
    set_name: str
    """Set that the image belongs to, such as CVC-ClinicDB or malignant; "" where there is no image."""
    cases: list[Case]
    """One entry; none, and no picture, where the stream ended before this process had its turn in the last round."""
    original: np.ndarray
    """uint8 ``(H, W, 3)``."""
    reference: np.ndarray
    """uint8 ``(H, W)``: 1 on the stream's class (or on any class), ``IGNORED`` where nobody says, else 0."""
    instances: np.ndarray
    """int32 ``(H, W)``: number of the object, 0 outside the reference; absent where the data set knows no objects."""
    upcoming: list["StreamItem"]
    """The next items of this process, where the method asks to look ahead; without theirs."""


class SemiBatch(TypedDict):
    """What a semi-supervised training step receives: one batch of each stream."""

    labelled: Batch
    unlabelled: Batch


class Query(NamedTuple):
    """One picture, or one slice of a volume, that a method is to segment; see ``methods.Method.answer``."""

    image: "Tensor"
    """float32 ``(3, S, S)``, network input as the method's images are prepared."""
    picture: np.ndarray
    """uint8 ``(H, W, 3)`` at its own size, for methods that take prompts."""
    case: Case
    prompts: np.ndarray
    """float64 ``(m, 4)`` half-open boxes or ``(m, 2)`` points in pixels of the picture; empty where the method takes
    none."""


class Segmentation(NamedTuple):
    """What a method answers to a :class:`Query`, at the picture's own size."""

    labels: np.ndarray
    """uint8 ``(H, W)`` class ids 0..C."""
    probabilities: "Tensor"
    """float32 ``(K, H, W)`` in [0, 1] on the method's device; channel 0 is background."""


class Marks(NamedTuple):
    """Points that a method has placed on one network input."""

    points: "Tensor"
    """``(N, 2)``, (x, y) in pixels of the network input."""
    labels: "Tensor"
    """``(N,)`` class ids, ``prompts.points.NOT_A_POINT`` where there is none."""
    shape: Literal["cross", "disc"]


class Panel(NamedTuple):
    """What a method shows of an image beside its answer, for callbacks to draw."""

    title: str
    labels: "Tensor"
    """``(S, S)`` class ids at the network's size, drawn as contours."""
    marks: Sequence[Marks] = ()
