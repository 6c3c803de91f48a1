"""What there is to annotate, what comes next, and how the page shows it. Needs no torch."""

from typing import Any

import numpy as np

from lightning_samseg.annotate import effort as efforts
from lightning_samseg.annotate.images import WorkImage
from lightning_samseg.annotate.leases import Leases
from lightning_samseg.annotate.workspace import Workspace
from lightning_samseg.errors import UserError

AHEAD = 3
"""Images that SAM encodes before they are opened."""
BLIND = 6
"""Stream of random numbers, beside those of expert, prompter and network."""


class NotFoundError(Exception):
    """There is no such image."""


class Board:
    """The images of a workspace and who has them open.

    Args:
        workspace: Their states.
        blind: Share of the images whose fused mask stays hidden until they are accepted.
        seed: Of the draw.
    """

    def __init__(self, workspace: Workspace, blind: float, seed: int) -> None:
        self.workspace, self.blind_share, self.seed = workspace, blind, seed
        self.leases = Leases()
        self._order = {name: place for place, name in enumerate(workspace.images)}

    def image(self, image_id: str) -> WorkImage:
        """The image of an id.

        Raises:
            NotFoundError: If there is none.
            UserError: If its file cannot be read.
        """
        image = self.workspace.images.get(image_id)
        if image is None:
            if image_id in self.workspace.failed:
                failed = self.workspace.failed[image_id]
                raise UserError(f"{failed.name} cannot be read.", found=failed.reason, fix="skip it, or mend the file")
            if image_id in self.workspace.known:
                raise UserError(
                    f"{self.describe(image_id)['name']} is no longer in the folder; what was accepted of it stays.",
                    fix="put the file back and start annotate again to correct it",
                )
            raise NotFoundError(image_id)
        return image

    def describe(self, image_id: str) -> dict[str, Any]:
        """An image as the page has it."""
        blind = image_id in self.workspace.images and self.is_blind(self.workspace.images[image_id])
        return self.workspace.describe(image_id, blind, self.leases.holder(image_id))

    def is_blind(self, image: WorkImage) -> bool:
        """Whether the image's fused mask stays hidden until it is accepted; drawn by its place."""
        return float(np.random.default_rng((self.seed, BLIND, image.number)).random()) < self.blind_share

    def numbers(self) -> dict[str, Any]:
        """See ``annotate.effort``."""
        with self.workspace.lock:
            states = [known.state for known in self.workspace.known.values()]
            return efforts.totals(self.workspace.accepts) | {
                "images": len(states),
                "skipped": states.count("skipped"),
                "failed": states.count("failed"),
            }

    def next_image(self, after: str | None = None, tab: str | None = None) -> str | None:
        """The next image to be annotated that nobody else has open; None: there is none left."""
        return next((image.id for image in self.upcoming(after, 1, tab)), None)

    def upcoming(self, after: str | None, count: int = AHEAD, tab: str | None = None) -> list[WorkImage]:
        """The next images to be annotated that nobody else has open.

        Args:
            after: Begin behind this one; None: at the first.
            count: How many.
            tab: Who asks.
        """
        images = list(self.workspace.images.values())
        start = self._order.get(after, -1) + 1 if after is not None else 0
        with self.workspace.lock:
            waiting = (
                image
                for image in [*images[start:], *images[:start]]
                if image.id != after
                and self.workspace.known[image.id].state in ("open", "draft")
                and self.leases.free_for(image.id, tab)
            )
            return [image for _, image in zip(range(count), waiting, strict=False)]
