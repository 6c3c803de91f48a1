"""A trained model, or a frozen SAM, in the hand: pictures and volumes in, answers out."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from lightning_samseg.errors import BadValueError
from lightning_samseg.methods import Method, ZeroShot
from lightning_samseg.prediction.answers import Answer, Given, given, joined
from lightning_samseg.prediction.predictor import Predictor
from lightning_samseg.prompts.boxes import check_points
from lightning_samseg.types import PromptKind

_LENGTH = {"box": 4, "point": 2}


class Model:
    """A method that is ready to segment what it is given; from :func:`lightning_samseg.load`.

    Args:
        predictor: The method on its device, with how its images are prepared.
    """

    kinds: ClassVar[tuple[PromptKind, ...] | None] = None

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor

    def __repr__(self) -> str:
        """For a notebook."""
        return f"{type(self.method).__name__} on {self.method.device}, classes {', '.join(self.class_names)}"

    @property
    def method(self) -> Method:
        """The LightningModule."""
        return self.predictor.method

    @property
    def class_names(self) -> tuple[str, ...]:
        """Of the classes 1..C."""
        return self.predictor.class_names

    @property
    def prompt_kinds(self) -> tuple[PromptKind, ...]:
        """By what it can be prompted; nothing for a model that takes no prompts."""
        return () if self.method.prompt_kind is None else (self.method.prompt_kind,)

    def predict(self, picture: Any, boxes: Any = None, points: Any = None) -> Any:
        """Segment one picture or volume, or a list of them.

        Args:
            picture: Path (a picture, NIfTI or MetaImage), PIL image, array ``(H, W)`` or ``(H, W, 3)``, or tensor, also
                ``(3, H, W)``; or a list of these.
            boxes: For a model that takes boxes, ``(m, 4)`` as ``(x0, y0, x1, y1)`` in pixels of the picture, half open;
                of a volume such a list for each slice. For a list of pictures one entry each.
            points: The same for points, ``(m, 2)`` as ``(x, y)``.

        Returns:
            An :class:`Answer`, or a list of them.

        Raises:
            UserError: If a picture cannot be read, prompts are missing, not taken, or outside of it.
        """
        if isinstance(picture, list | tuple):
            sources = [given(each) for each in picture]
            both = (_one_each(each, len(sources)) for each in (boxes, points))
            return self._predict(sources, [self._prompts(*each) for each in zip(*both, sources, strict=True)])
        source = given(picture)
        return self._predict([source], [self._prompts(boxes, points, source)])[0]

    def _prompts(self, boxes: Any, points: Any, source: Given) -> list[NDArray[np.float64] | None]:
        """Prompts of each slice; None for a method that takes none."""
        kinds = [kind for kind, each in (("box", boxes), ("point", points)) if each is not None]
        taken = self.prompt_kinds
        if not taken and not kinds:
            return [None] * source.num_slices
        if len(kinds) != 1 or kinds[0] not in taken:
            names = " or ".join({"box": "boxes", "point": "points"}[kind] for kind in taken)
            raise BadValueError(
                f"{type(self.method).__name__} {f'is prompted by {names}' if taken else 'takes no prompts'}.",
                found=" and ".join(kinds) or "neither boxes nor points",
                fix=f"give {names.replace('boxes', 'boxes=[(x0, y0, x1, y1)]').replace('points', 'points=[(x, y)]')}"
                if taken
                else "leave boxes and points out",
            )
        self._ask_by(kinds[0])
        rows = boxes if points is None else points
        of_slices = [rows] if source.volume is None else rows
        if len(of_slices) != source.num_slices:
            raise BadValueError(
                f"{source.name} has {source.num_slices} slices, and prompts for {len(of_slices)} of them.",
                fix="give a list of prompts for each slice, empty where nothing is to be found",
            )
        return [_rows(each, kinds[0], source.name) for each in of_slices]

    def _ask_by(self, kind: PromptKind) -> None:
        """Get ready for prompts of one of ``prompt_kinds``."""

    def _predict(self, sources: Sequence[Given], prompts: Sequence[list[NDArray[np.float64] | None]]) -> list[Answer]:
        """Segment one after the other, in batches over slices; pictures of a list share batches."""
        size = 1 if self.prompt_kinds else self.predictor.batch_size
        slices = [(number, index) for number, each in enumerate(sources) for index in range(each.num_slices)]
        found: list[list[Any]] = [[] for _ in sources]
        for first in range(0, len(slices), size):
            batch = slices[first : first + size]
            queries = [self._query(sources[number], index, prompts[number][index]) for number, index in batch]
            for (number, _), answered in zip(batch, self.predictor.answer(queries), strict=True):
                probabilities = answered.probabilities.float().cpu()
                found[number].append(answered._replace(probabilities=probabilities))
        return [joined(parts, source, self.class_names) for parts, source in zip(found, sources, strict=True)]

    def _query(self, source: Given, index: int, prompts: NDArray[np.float64] | None) -> Any:
        volume, pixels = source.volume, source.read(index, self.predictor.reads_scaled)
        if prompts is not None and prompts.shape[1] == 2:  # boxes are clipped, and refused where nothing is left
            check_points(prompts, (pixels.shape[0], pixels.shape[1]), source.name)
        return self.predictor.query(
            pixels,
            prompts,
            case_id=source.name,
            source=source.name,
            spacing=None if volume is None else volume.spacing,
            slice_index=index,
            num_slices=source.num_slices,
        )


class Sam(Model):
    """A frozen SAM that answers boxes or points; from :func:`lightning_samseg.load_sam`."""

    method: ZeroShot

    @property
    def prompt_kinds(self) -> tuple[PromptKind, ...]:
        """Both; see the table of backbones for what each was trained with."""
        return ("box", "point")

    def _ask_by(self, kind: PromptKind) -> None:
        self.method.prompt_kind = kind


def _one_each(prompts: Any, count: int) -> Sequence[Any]:
    """Prompts of each of several pictures; None where there are none at all."""
    if prompts is not None and len(prompts) != count:
        raise BadValueError(f"{len(prompts)} lists of prompts for {count} pictures.", fix="give one list per picture")
    return [None] * count if prompts is None else prompts


def _rows(prompts: Any, kind: PromptKind, name: str) -> NDArray[np.float64]:
    """Prompts of one picture as an array ``(m, 4)`` or ``(m, 2)``."""
    rows = np.asarray(prompts, np.float64)
    rows = rows.reshape(0, _LENGTH[kind]) if rows.size == 0 else rows
    if rows.ndim != 2 or rows.shape[1] != _LENGTH[kind] or not np.isfinite(rows).all():
        raise BadValueError(
            f"These are no {'boxes' if kind == 'box' else 'points'} for {name}.",
            expected="[(x0, y0, x1, y1), ...]" if kind == "box" else "[(x, y), ...]",
            found=str(prompts)[:100],
            fix="give a list with one entry per object, in pixels of the picture",
        )
    return rows
