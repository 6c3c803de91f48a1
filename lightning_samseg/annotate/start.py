"""From options to a server: what a workspace is made with, the network, the engine."""

import contextlib
import copy
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from lightning_samseg.adapters.checkpoints import read_checkpoint, require
from lightning_samseg.annotate.engine import Engine
from lightning_samseg.annotate.http import create_app
from lightning_samseg.annotate.images import list_images
from lightning_samseg.annotate.label_studio import LabelStudio
from lightning_samseg.annotate.label_studio_client import Studio
from lightning_samseg.annotate.learning import load_learner
from lightning_samseg.annotate.monai_label import MonaiLabel
from lightning_samseg.annotate.security import local_addresses
from lightning_samseg.annotate.server import LOOPBACK, bind, doorway, new_tokens, open_browser, serve
from lightning_samseg.annotate.settings import Learn, Settings, check_settings, name_of, stored_settings, write_settings
from lightning_samseg.annotate.workspace import Workspace
from lightning_samseg.errors import UserError
from lightning_samseg.methods.aux_ol import AuxOl
from lightning_samseg.moved_arguments import check_moved
from lightning_samseg.prediction.predictor import device_of
from lightning_samseg.runs.folder import Claim
from lightning_samseg.runs.options import flat, nested

SMALL: dict[str, Any] = {"auxiliary.width": 0.25, "crop.size": 64, "learning.lr": 2e-3}
"""The quickstart's network: on a CPU the paper's takes half a minute a prompt."""
BETTER: dict[str, Any] = {"fusion.kind": "best_so_far", "fusion.window": 20, "learning.loss": "structure"}
"""What the expert sees is SAM's mask until the network has made it better: on real polyps, half of a network in the
middle of its training cost more strokes than it saved. The loss is better on real images than the paper's
(``experiments/results/aux_ol_samples.md``)."""
FIXED: dict[str, Any] = {"learning.order": "image", "prompter.file": None, "cache_gb": 0.0, "sam_batch": 1}
NOT_OURS = ("expert", "num_classes", "image_size", "images_per_step")
"""Arguments of ``AuxOl`` that say nothing here."""
VIEW: dict[str, Any] = {"image_size": 256, "resize": "squash", "normalise": "minmax", "grey": False}
TIMED = 4
"""Crops of the step that is timed."""


@dataclass(frozen=True)
class Options:
    """What the command line says; None: not said."""

    given: Path
    output: Path
    class_name: str | None = None
    prompt: str | None = None
    backbone: str | None = None
    weights: str | None = None
    checkpoint: Path | None = None
    model: Mapping[str, Any] | None = None
    """Arguments of ``AuxOl`` from a configuration."""
    order: str | None = None
    blind: float | None = None
    learn: Learn | None = None
    patience: float = 1.5
    catch_up: int | None = None
    device: str = "auto"
    host: str = "127.0.0.1"
    port: int = 8765
    allow_host: Sequence[str] = ()
    people: Sequence[str] = ()
    browser: bool = True
    label_studio: bool = False
    label_studio_url: str | None = None
    monai_label: bool = False


def annotate(options: Options) -> None:
    """Serve a workspace until it is ended.

    Raises:
        UserError: For mistakes a user can mend.
    """
    if options.host not in LOOPBACK and not options.allow_host:
        raise UserError(
            f"--host {options.host} would let other machines in, by a connection that is not encrypted.",
            fix="leave it out and use a tunnel: ssh -L 8765:127.0.0.1:8765 THIS_MACHINE; or name the address that "
            "browsers will show with --allow_host",
        )
    local_addresses(options.port, options.allow_host)  # refused before anything slow
    studio, tasks, fetched = _asked(options)
    stored = stored_settings(options.output)
    order = options.order or (stored.order if stored else "sorted")
    listed, failed, notes = list_images(options.given, options.output, order)
    notes += fetched
    port = bind(options.host, options.port)
    number = port.getsockname()[1]
    with Claim(options.output, "annotate") as claim:
        settings, method = prepare(options)
        notes += write_settings(options.output, settings, listed)
        workspace = Workspace(options.output, listed, failed)
        engine = Engine(
            workspace,
            method,
            settings.class_name,
            VIEW | {"geometry": "half_pixel", "stream_class": settings.class_name},
            patience=options.patience,
            blind=settings.blind,
            learn=settings.learn,
            catch_up=options.catch_up,
        )
        claim.progress = lambda: (len(workspace.accepts), len(workspace.known))
        for note in [*notes, *(f"{each.name} cannot be read: {each.reason}" for each in failed)]:
            engine.tell(note)
        seconds = lesson_seconds(method)
        engine.start()
        with contextlib.ExitStack() as closing:
            closing.callback(engine.close)
            tokens = new_tokens(options.people)
            facts = {
                "workspace": name_of(options.output),
                "settings": {"order": settings.order, "blind": settings.blind, "patience": _finite(options.patience)},
                "lesson_seconds": seconds,
            }
            adapters = _adapters(options, engine, studio, tasks)
            routes = [route for adapter in adapters for route in adapter.routes()]
            addresses = local_addresses(number, options.allow_host)
            app = create_app(engine, addresses, tokens, facts, routes)
            urls = {name: f"{addresses[0]}/#t={token}" for token, name in tokens.items()}
            _print_start(options, settings, engine, seconds, urls)
            for adapter in adapters:
                closing.callback(adapter.close)
                adapter.start()
                for token, name in tokens.items():
                    print(adapter.instructions(addresses[0], token, name), flush=True)
            with doorway(options.output, next(iter(urls.values()))) as door:
                if options.browser and not open_browser(door):
                    print("No browser could be started: open the address above.")
                serve(app, engine, port)
        left = engine.stream.pending
        done = f"{len(workspace.accepts)} of {len(workspace.known)} images accepted"
        later = f"; {left} lessons will be learned at the next start" if left else ""
        print(f"\n{done}; masks in {options.output / 'masks'}{later}")


def _asked(options: Options) -> tuple[Studio | None, list[dict[str, Any]], list[str]]:
    """The project in Label Studio, its tasks, and what was fetched into ``--input``, in a line."""
    if options.label_studio_url is None:
        return None, [], []
    studio = Studio(options.label_studio_url)
    tasks = studio.tasks()
    new = studio.fetch_uploads(options.given, tasks)
    notes = [f"{len(new)} pictures are fetched from Label Studio, such as {new[0]}."] if new else []
    return studio, tasks, notes


def _adapters(
    options: Options, engine: Engine, studio: Studio | None, tasks: Sequence[dict[str, Any]]
) -> list[LabelStudio | MonaiLabel]:
    """The other programs' protocols that are asked for."""
    adapters: list[LabelStudio | MonaiLabel] = [LabelStudio(engine, studio, tasks)] if options.label_studio else []
    return adapters + ([MonaiLabel(engine)] if options.monai_label else [])


def prepare(options: Options) -> tuple[Settings, AuxOl]:
    """Settings of the workspace, stored or new, and the method they describe, on its device.

    Raises:
        UserError: If an option is not the workspace's, or SAM's weights are others.
    """
    device = device_of(options.device)
    stored = stored_settings(options.output)
    given = {
        "class_name": options.class_name,
        "order": options.order,
        "blind": options.blind,
        "learn": options.learn,
        "prompter.kind": options.prompt,
        "sam.backbone": options.backbone,
        **flat(options.model or {}),
    }
    given = {name: value for name, value in given.items() if value is not None}
    start: dict[str, Any] | None = None
    if stored is not None:
        check_moved(AuxOl, nested(stored.model), options.output / "workspace.json")
        check_settings(options.output, stored, given)
        if options.checkpoint is not None:
            raise UserError(
                f"The workspace {options.output} has a network of its own already.",
                fix="leave --ckpt_path out, or start another workspace with --output",
            )
        settings = stored
    else:
        if options.checkpoint is not None:
            start = read_checkpoint(options.checkpoint)
            require(start, options.checkpoint, "hyper_parameters", "online", "weights_sha256")
            check_moved(AuxOl, start["hyper_parameters"], options.checkpoint)
        settings = _new_settings(options, given, device, start)
    torch.set_num_threads(settings.threads)
    arguments = settings.model | ({"sam.checkpoint": options.weights} if options.weights else {})
    method = AuxOl(**nested(arguments))
    if stored is not None and stored.weights_sha256 != method.weights_sha256:
        raise UserError(
            f"The workspace {options.output} was made with other weights of SAM.",
            expected=f"sha256 {stored.weights_sha256}",
            found=str(method.weights_sha256),
            fix="give the file with --weights FILE, or start another workspace with --output",
        )
    method.to(device).eval()
    method.generalist.to(device)
    if start is not None:
        load_learner(method, start, Path(str(options.checkpoint)))
        method.learner.position = 0
    return replace(settings, weights_sha256=method.weights_sha256), method


def _new_settings(
    options: Options, given: Mapping[str, Any], device: torch.device, start: Mapping[str, Any] | None
) -> Settings:
    """Those of a new workspace: the checkpoint's where one is given, else our defaults; then what was said."""
    said = flat(options.model or {})
    if start is not None:
        model = {name: value for name, value in flat(start["hyper_parameters"]).items() if name[0] != "_"}
    else:
        own = {name.partition(".")[0] for name in said}  # groups, to which nothing of BETTER is added
        model = {name: value for name, value in BETTER.items() if name.partition(".")[0] not in own}
        model |= SMALL if device.type == "cpu" else {}
    model = {"sam.backbone": "lite_medsam"} | model
    model |= {name: given[name] for name in ("prompter.kind", "sam.backbone", *said) if name in given}
    if options.weights is not None:
        model["sam.checkpoint"] = str(Path(options.weights).expanduser().resolve())
    model = {name: value for name, value in model.items() if name.partition(".")[0] not in NOT_OURS} | FIXED
    return Settings(
        class_name=options.class_name or "object",
        order=options.order or "sorted",
        blind=options.blind or 0.0,
        learn=options.learn or "all",
        model=model,
        threads=max(1, _cores() - 1),
    )


def lesson_seconds(method: AuxOl) -> float:
    """Time a step on a few crops, on a copy, and give what one on a full batch should take."""
    network = copy.deepcopy(method.learner.network)
    crops = torch.rand(TIMED, network.in_channels, network.crop_size, network.crop_size, device=network.device)
    targets = (crops[:, :1] > 0.5).float()
    network.update(crops[:1], targets[:1])  # the first step is slower than the others
    start = time.perf_counter()
    network.update(crops, targets)
    if network.device.type == "cuda":
        torch.cuda.synchronize(network.device)
    learning, capacity = method.learner.updates.config, method.learner.batch.capacity
    entries = min(capacity, learning.update_entries or capacity) * learning.updates_per_prompt
    return (time.perf_counter() - start) / TIMED * entries


def _print_start(options: Options, settings: Settings, engine: Engine, seconds: float, urls: Mapping[str, str]) -> None:
    workspace = engine.workspace
    print(
        f"{len(workspace.images)} images in {options.given}, {len(workspace.accepts)} accepted; class "
        f"{settings.class_name}, {engine.method.prompter.config.kind} prompts; workspace {options.output}"
    )
    print(f"A lesson costs about {seconds:.1f} s a prompt on {engine.method.device}, in the background.")
    if options.host not in LOOPBACK:
        print("Traffic is not encrypted: use a network that you trust, or a tunnel.")
    for name, url in urls.items():
        print(f"{name + ': ' if name else ''}{url}", flush=True)
    print("Ctrl-C ends it; nothing is lost.", flush=True)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _finite(value: float) -> float | None:
    return None if math.isinf(value) else value
