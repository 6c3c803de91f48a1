"""SAM's logits for a stream, computed some images ahead of the learner. Nothing is learned from them: SAM is frozen."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_samseg.errors import UserError
from lightning_samseg.log import logger
from lightning_samseg.models.generalist import Generalist
from lightning_samseg.online.cache import LogitsCache, cache_key
from lightning_samseg.online.prompter import Prompter
from lightning_samseg.types import StreamItem

PASS_ON_GPU = 4
"""Images in a pass where nothing is said. SAM-H at 1024 px should then take 12 GB (not measured); no gain on a CPU."""


class Request(NamedTuple):
    """An image and what SAM is asked about it."""

    image: NDArray[np.uint8]
    """``(H, W, 3)``."""
    prompts: NDArray[Any]
    """``(m, 2)`` points or ``(m, 4)`` boxes in pixels of the image, m at least 1."""


class SamPrefetcher:
    """Answers requests from the cache, from what an earlier pass left, or by a new pass over the next images.

    Looking ahead leaks nothing into a prediction: prompts are made from the image's own reference or from a file, SAM
    does not change, and an answer is handed out only for the image it belongs to.

    Numbers do not depend on whether there is a cache, what is in it, where the stream begins or who fills it, by two
    rules. Logits are rounded to half precision (half the disk; 11 significant bits) whether they are stored or not.
    Every pass of the encoder has the same shape, ``batch`` images, filled up with copies of the last: kernels, and with
    them the last bits, are chosen by the shape. That an image's neighbours in the pass do not matter is tested on the
    first pass of more than one image; where they do, every image gets a pass of its own. Another ``batch`` may give
    other last bits; it is part of the cache's key.

    Args:
        compute: Low-resolution logits ``(m, h, w)`` for each of 1 to ``batch`` requests, by one pass of the encoder
            over exactly ``batch`` images.
        identity: What the answers depend on besides images and prompts.
        kind: ``point`` or ``box``.
        batch: Images in a pass.
        cache: None for none.
    """

    def __init__(
        self,
        compute: Callable[[Sequence[Request]], list[Tensor]],
        identity: str,
        kind: Literal["box", "point"],
        batch: int = 1,
        cache: LogitsCache | None = None,
    ) -> None:
        self.compute, self.identity, self.kind, self.batch, self.cache = compute, identity, kind, batch, cache
        self._ready: dict[str, Tensor] = {}
        self._apart: bool | None = None  # whether neighbours do not matter; None: not known yet

    def logits(self, request: Request, upcoming: Iterable[Request] = ()) -> Tensor:
        """Give SAM's answer for an image.

        Args:
            request: The image.
            upcoming: The images that follow in the stream; if a pass is needed, ``batch - 1`` of them are taken.

        Returns:
            Low-resolution logits float16 ``(m, h, w)``, on the host or on SAM's device.
        """
        key = self._key(request)
        if key in self._ready:
            return self._ready.pop(key)

        def run() -> Tensor:
            return self._run(key, request, upcoming)

        return run() if self.cache is None else self.cache.get_or_compute(key, run)

    def _run(self, key: str, request: Request, upcoming: Iterable[Request]) -> Tensor:
        """Compute a request, and those that follow it and are not there yet."""
        wanted = {key: request}
        for other in islice(upcoming, self.batch - 1):
            name = self._key(other)
            if name not in self._ready and (self.cache is None or name not in self.cache):
                wanted[name] = other
        answers = dict(zip(wanted, self._pass(list(wanted.values())), strict=True))
        mine = answers.pop(key)
        self._ready |= answers
        if self.cache is not None:
            for name, logits in answers.items():
                self.cache.put(name, logits)
        return mine

    def _pass(self, requests: Sequence[Request]) -> list[Tensor]:
        answers = self.compute(requests)
        if len(requests) > 1 and self._apart is None:
            (alone,) = self.compute(requests[-1:])  # in another place, among copies of itself
            self._apart = torch.equal(alone, answers[-1])
            if not self._apart:
                logger.info(
                    f"SAM's last bits depend on the neighbours in a pass of {self.batch} images: one by one instead."
                )
        if len(requests) > 1 and not self._apart:
            answers = [self.compute([request])[0] for request in requests]
        return [answer.half() for answer in answers]

    def _key(self, request: Request) -> str:
        return cache_key(f"{self.identity} pass {self.batch} float16", request.image, request.prompts, self.kind)


def sam_prefetcher(
    generalist: Generalist,
    kind: Literal["box", "point"],
    batch: int | None = None,
    cache: LogitsCache | None = None,
    precision: str = "32-true",
) -> SamPrefetcher:
    """Let a frozen generalist answer a stream's requests.

    Args:
        generalist: On the device where it will stay.
        kind: ``point`` or ``box``.
        batch: Images in a pass of the encoder; None: 4 on a GPU, 1 on a CPU. An adapted SAM takes one at a time.
        cache: None for none.
        precision: Of the trainer; autocast is the caller's.

    Returns:
        What answers.

    Raises:
        UserError: If ``batch`` is below 1.
    """
    size = images_in_pass(generalist, batch)
    device = next(generalist.parameters()).device

    @torch.no_grad()
    def one_pass(requests: Sequence[Request]) -> list[Tensor]:
        asked = [(None, each.prompts) if kind == "box" else (each.prompts, None) for each in requests]
        pixels, geometries = zip(*(generalist.preprocess(each.image) for each in requests), strict=True)
        filled = [*pixels, *[pixels[-1]] * (size - len(pixels))]
        embeddings = generalist.encode(torch.cat(filled).to(device))
        return [generalist.answer(embeddings[i : i + 1], geometries[i], *asked[i]) for i in range(len(requests))]

    return SamPrefetcher(one_pass, f"{generalist.identity} {_machine(device)} {precision}", kind, size, cache)


def images_in_pass(generalist: Generalist, batch: int | None = None) -> int:
    """How many images a generalist encodes together where it is.

    Args:
        generalist: On its device.
        batch: As of :func:`sam_prefetcher`.

    Raises:
        UserError: If ``batch`` is below 1.
    """
    if batch is not None and batch < 1:
        raise UserError(f"sam_batch {batch}", expected="at least 1", fix="use 1, or null")
    if not generalist.many_in_pass:
        return 1
    on_cpu = next(generalist.parameters()).device.type == "cpu"
    return (1 if on_cpu else PASS_ON_GPU) if batch is None else batch


def _machine(device: torch.device) -> str:
    """What the last bits of a product depend on besides its factors."""
    if device.type == "cpu":
        return f"cpu {torch.backends.cpu.get_cpu_capability()} {torch.__version__}"
    return f"{torch.cuda.get_device_name(device)} {torch.get_float32_matmul_precision()} {torch.__version__}"


def requests_of(items: Iterable[StreamItem], prompter: Prompter) -> Iterator[Request]:
    """Make the prompts of images that are still to come.

    Args:
        items: The images; those behind the end of the stream have no ``cases``.
        prompter: Prompts them.

    Yields:
        Those with prompts, up to the first that cannot be prompted; it will be complained about when its turn comes.
    """
    for item in items:
        if not item["cases"]:
            return
        try:
            prompts = prompter.prompts_of(item)
        except UserError:
            return
        if len(prompts):
            yield Request(item["original"], prompts)
