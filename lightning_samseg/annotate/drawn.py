"""What other programs draw on an image: their prompts come one by one and add up, in the image's draft."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_samseg.annotate import rle
from lightning_samseg.annotate.engine import Engine
from lightning_samseg.annotate.workspace import OldRevisionError
from lightning_samseg.prompts.objects import find_objects

SAME = 0.5
"""IoU from which a box replaces an earlier one."""


class Drawn:
    """An engine as programs see it that know neither drafts nor revisions.

    Args:
        engine: Does the work.
        source: The program, for the journal.
    """

    def __init__(self, engine: Engine, source: str) -> None:
        self.engine, self.source = engine, source

    def ask(self, image_id: str, new: list[dict[str, Any]], keep: bool = True) -> tuple[list[NDArray[np.uint8]], float]:
        """Answer the prompts of an image, those drawn before and the new ones.

        Args:
            image_id: The image.
            new: Drawn now.
            keep: Whether they stay in the image's draft, with which it will be accepted.

        Returns:
            A mask uint8 ``(H, W)`` per prompt, the new ones last, and the mean weight of SAM. Of a blind image SAM's.

        Raises:
            UserError: If a prompt cannot be used.
        """
        engine, workspace = self.engine, self.engine.workspace
        image = engine.board.image(image_id)
        size = workspace.pixels.size(image)
        prompts = merged(workspace.begun(image_id, size).prompts, new)
        answer = engine.ask(image_id, prompts)
        if keep and new:
            with workspace.lock:
                draft = workspace.known[image_id].draft
                mask, effort = (draft.mask, draft.effort) if draft else (None, {})
                engine.draft(image_id, workspace.known[image_id].revision, prompts, mask, effort)
        masks = [rle.decode(each["fused"] or each["sam"], size) for each in answer["prompts"]]
        return masks, answer["alpha"] if answer["alpha"] is not None else 1.0

    def accept(
        self,
        image_id: str,
        mask: NDArray[np.uint8],
        author: str,
        effort: dict[str, Any] | None = None,
        extra: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Accept a mask with the prompts that were drawn, or with one per component where there were none.

        Args:
            image_id: The image.
            mask: uint8 ``(H, W)``.
            author: Who accepts.
            effort: See ``annotate.http``.
            extra: Goes into the journal as it is.

        Raises:
            UserError, OSError: As ``Engine.accept``.
        """
        workspace, kind = self.engine.workspace, self.engine.method.prompter.config.kind
        height, width = mask.shape
        while True:
            drawn = workspace.begun(image_id, (height, width)).prompts
            known = workspace.known[image_id]
            options: dict[str, Any] = {"author": author, "source": self.source}
            options["extra"] = {"derived": bool(mask.any() and not drawn), **(extra or {})}
            prompts = drawn or derived(mask, kind)
            try:
                return self.engine.accept(image_id, known.revision, prompts, rle.encode(mask), effort, **options)
            except OldRevisionError:  # somebody has written in between: what was submitted counts
                continue


def merged(prompts: list[dict[str, Any]], new: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add prompts to those of an image; a box that overlaps an earlier one takes its place, as an equal point does.

    Args:
        prompts: So far.
        new: That were drawn now.

    Returns:
        All of them, the new ones last.
    """
    for each in new:
        prompts = [old for old in prompts if not _same(old, each)] + [each]
    return prompts


def derived(mask: NDArray[np.uint8], kind: str) -> list[dict[str, Any]]:
    """Prompts for a mask that came without any: one per 8-connected component, as a stream of ``fit`` has them."""
    places = [each.box if kind == "box" else each.point("deepest") for each in find_objects(mask)]
    return [{kind: list(place)} for place in places]


def _same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    if "box" not in one or "box" not in other:
        return one == other
    a, b = one["box"], other["box"]
    width = max(0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0, min(a[3], b[3]) - max(a[1], b[1]))
    inside = width * height
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inside
    return union > 0 and inside / union >= SAME
