"""An expert who knows the reference masks: what ``fit`` simulates, said to a server of ``annotate`` by its calls."""

import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lightning_samseg.annotate import rle
from lightning_samseg.annotate.client import Client
from lightning_samseg.prompts.objects import find_objects
from lightning_samseg.types import PromptKind


class Waited(NamedTuple):
    """Seconds that the expert has waited for an image's answers."""

    opened: float
    """From asking for an image to its raw values."""
    sam: float | None
    """From the last prompt to SAM's mask; None where nothing is to be seen."""
    fused: float | None
    """To the fused mask."""
    accepted: float
    """To the answer of an accept."""


def prompts_of(mask: NDArray[Any], kind: PromptKind = "box") -> list[dict[str, Any]]:
    """A prompt per object of a mask, as ``Prompter`` makes them, in the form that the server takes."""
    return [{kind: list(found.box if kind == "box" else found.point("centroid"))} for found in find_objects(mask)]


def annotate_all(
    client: Client, reference: Callable[[str], NDArray[np.uint8]], think: float = 0.0, most: int | None = None
) -> Iterator[Waited]:
    """Annotate the images that are open, in the order in which they are offered.

    Args:
        client: Its own tab.
        reference: Mask ``(H, W)`` of an image by its name, 0 and 1.
        think: Seconds before a prompt, and before an accept.
        most: Stop after so many.

    Yields:
        Of each image what was waited for.

    Raises:
        UserError: What the server refuses.
    """
    workspace = client.workspace()
    kind: PromptKind = workspace["prompt"]
    names = {image["id"]: image["name"] for image in workspace["images"]}
    image_id, count = workspace["next"], 0
    while image_id is not None and count != most:
        start = time.perf_counter()
        opened = client.open(image_id)
        client.pixels(image_id)
        shown = time.perf_counter() - start
        mask = reference(names[image_id])
        prompts, runs = prompts_of(mask, kind), rle.encode(mask)
        sam = fused = None
        if prompts:
            time.sleep(think)
            start = time.perf_counter()
            client.ask(image_id, prompts, sam_only=True)
            sam = time.perf_counter() - start
        start = time.perf_counter()
        client.ask(image_id, prompts)
        fused = time.perf_counter() - start + sam if sam is not None else None
        time.sleep(think)
        revision = client.draft(image_id, opened["revision"], prompts, runs, {"strokes": 1})
        start = time.perf_counter()
        answered = client.accept(image_id, revision, prompts, runs, {"strokes": 1})
        yield Waited(shown, sam, fused, time.perf_counter() - start)
        image_id, count = answered["next"], count + 1
