"""One run of the command line that is not started: what its configuration asks for, and what that needs."""

import json
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from lightning_samseg.cli.train import class_of, parse
from lightning_samseg.errors import UserError
from lightning_samseg.methods import Method
from lightning_samseg.methods.groups import as_tables, defaults
from lightning_samseg.models.backbones import BACKBONES
from lightning_samseg.planning.cost import Cost, dry_run
from lightning_samseg.planning.fitting import Change
from lightning_samseg.planning.gpus import Gpu
from lightning_samseg.planning.steps import Load, quiet

_LOGITS = 256 * 256 * 2
"""Bytes of SAM's logits for a prompt in the cache."""


class Planned:
    """A run, parsed as the verb would parse it; no run folder is touched, and no image is opened.

    Args:
        argv: The verb and its options.

    Raises:
        UserError: If the run would not start for a mistake in its options, or has nothing to plan.
    """

    def __init__(self, argv: Sequence[str]) -> None:
        config = parse(argv)
        self.kind = class_of(config.model)
        name = config.model.class_path.rpartition(".")[2]
        if not (isinstance(self.kind, type) and issubclass(self.kind, Method)):
            raise UserError(f"{name} is no method of this package's contract.", fix="plan one that is a methods.Method")
        if not self.kind.needs_training:
            raise UserError(f"{name} trains nothing.", fix="leave it out of the plan: it takes what SAM takes")
        arguments = config.model.as_dict().get("init_args", {})
        self.arguments: dict[str, Any] = json.loads(json.dumps(as_tables(arguments), default=str))
        self.streams = self.kind.uses_stream
        self._trainer = config.trainer
        self._read_data(config.data)
        self.precision = _precision(config.trainer.precision)
        self.change = Change(self.precision, bool(self.arguments.get("checkpointing")), self._load)
        self._costs: dict[Change, Cost] = {}

    def _read_data(self, config: Any) -> None:
        """What the data say: classes and images, where they are here."""
        given = config.init_args
        self._load = Load(given.labelled_batch_size, given.unlabelled_batch_size, given.eval_batch_size)
        self.image_size, self.cache_gb = given.image_size, given.cache_gb
        self.images: int | None = None
        self.missing: str | None = None
        data = class_of(config)(**given.as_dict())
        try:
            self.arguments["num_classes"] = data.num_classes
            if self.streams:
                with quiet():
                    self.images = len(data.stream_items())
        except (UserError, OSError) as error:
            self.missing = str(error).partition("\n")[0]
        self.arguments["num_classes"] = self.arguments.get("num_classes") or 1
        if not self.streams and self._trainer.max_steps < 1:
            raise UserError(
                "Training is counted in steps, not in epochs.",
                expected="trainer.max_steps of at least 1",
                found=str(self._trainer.max_steps),
                fix="set --trainer.max_steps, for instance to 30000",
            )

    @property
    def title(self) -> str:
        """What is run, in a line."""
        size, load = self.arguments.get("image_size"), self._load
        sizes = f"{size} px, {load.labelled} + {load.unlabelled} images a step"
        if not self.uses_unlabelled:
            sizes = f"{size} px, {load.labelled} images a step"
        parts = [self.kind.__name__, *([self.backbone] if self.backbone else [])]
        return ", ".join([*parts, "an image a step" if self.streams else sizes, self.length])

    @property
    def length(self) -> str:
        """How long it is."""
        if self.iterations is None:
            return "as many images as the stream has"
        return f"{self.iterations:,} {'images, one prompt each' if self.streams else 'iterations'}"

    @property
    def uses_unlabelled(self) -> bool:
        """Whether a step takes unlabelled images."""
        return bool(self.kind.uses_unlabelled and self.arguments.get("cross") != "none")

    @property
    def backbone(self) -> str | None:
        """SAM, where there is one."""
        for found in _entries(self.arguments, "backbone"):
            network = next(_entries(self.arguments, "network"), None)
            name = next(_entries(network, "name"), None) if isinstance(network, dict) else network
            used = "sam_consistency" in self.arguments or name in (None, "sam_lora") or self.streams
            return str(found) if used and found in BACKBONES else None
        return None

    @property
    def iterations(self) -> int | None:
        """Steps of the run; None for a stream of unknown length."""
        steps = self._trainer.max_steps
        if not self.streams:
            return int(steps)
        lengths = [each for each in (steps if steps > 0 else None, self.images) if each is not None]
        return min(lengths) if self.images is not None else None

    @property
    def precisions(self) -> tuple[str, ...]:
        """Those that the method can be run in."""
        return self.kind.precisions

    @property
    def can_checkpoint(self) -> bool:
        """Whether it can recompute blocks of its encoder."""
        return "checkpointing" in defaults(self.kind)

    @cached_property
    def identity(self) -> str:
        """The same for runs that need the same."""
        arguments = {**self.arguments, "seed": None}
        return json.dumps([self.kind.__name__, arguments, str(self.change), self.iterations], sort_keys=True)

    def cost(self, change: Change | None = None) -> Cost:
        """What it needs, as it is or after a change."""
        change = change or self.change
        if change not in self._costs:
            arguments = dict(self.arguments)
            if self.can_checkpoint:
                arguments["checkpointing"] = change.checkpointing
            self._costs[change] = dry_run(self.kind, arguments, change.load, change.precision)
        return self._costs[change]

    def hours(self, gpu: Gpu) -> tuple[float, bool] | None:
        """Time on a GPU, and whether its rate was measured; None where the length is unknown."""
        if self.iterations is None or (not gpu.bf16 and self.precision == "bf16-mixed"):
            return None
        batches = 1 if self.streams else self._trainer.accumulate_grad_batches or 1
        seconds, measured = gpu.seconds(self.cost().gflop, self.precision)
        return seconds * self.iterations * batches / 3600, measured

    def disk(self) -> list[str]:
        """What it puts on disks, a line each."""
        cost, lines = self.cost(), []
        weights = BACKBONES[self.backbone].checkpoint if self.backbone else None
        if weights is not None:
            lines.append(f"weights {weights.size / 1e6:,.0f} MB")
        size = 4 * (cost.held + 2 * cost.trained) / 1e6
        lines.append(f"checkpoints of about {size:,.0f} MB each, {'two' if self.streams else 'three'} of them")
        if self.cache_gb:
            lines.append(f"decoded images at most {self.cache_gb:g} GB ($SAMSEG_CACHE/decoded), where decoding is slow")
        if self.streams and (limit := self.arguments.get("cache_gb", 0)):
            known = f", {self.images * _LOGITS / 1e6:,.0f} MB" if self.images is not None else ""
            lines.append(f"SAM's logits 0.13 MB a prompt{known}, at most {limit:g} GB ($SAMSEG_CACHE/sam_logits)")
        return lines


def _precision(given: Any) -> str:
    names = {"None": "32-true", "32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}
    return names.get(str(given), str(given))


def _entries(table: Any, name: str) -> Any:
    """Values of a name in a table and the tables in it."""
    if isinstance(table, dict):
        if name in table:
            yield table[name]
        for each in table.values():
            yield from _entries(each, name)
