"""Label Studio's ML backend protocol: interactive boxes and points are answered, submitted annotations learned from.

Connected as ``http://127.0.0.1:PORT/ls/TOKEN``; Label Studio appends ``/health``, ``/setup``, ``/predict``,
``/webhook`` and ``/versions``. Web hooks are sent once and have to be answered within a second: an event goes to the
journal, is answered, and then worked on; what a kill leaves undone is done at the next start.

Pictures are those of ``--input``: tasks name them as ``/data/local-files/?d=...``, and nothing is fetched or opened by
a name that came from outside.
"""

import base64
import binascii
import io
import json
import math
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from lightning_samseg.annotate import label_studio_rle, rle
from lightning_samseg.annotate.drawn import Drawn
from lightning_samseg.annotate.engine import Engine
from lightning_samseg.annotate.http import json_body
from lightning_samseg.errors import UserError
from lightning_samseg.io.text import write_text

VERSION = "AuxOl"
"""Constant: with another one Label Studio would make new rows of predictions after every lesson."""
MASKS = {"brushlabels", "bitmasklabels"}
CONFIG = """\
<View><Image name="image" value="$image"/>
  <BrushLabels name="mask" toName="image"><Label value="{name}"/></BrushLabels>
  <{kind}Labels name="prompt" toName="image" smart="true"><Label value="{name}"/></{kind}Labels></View>"""


class LabelStudio:
    """The protocol on an engine.

    Args:
        engine: Does the work.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine, self.drawn = engine, Drawn(engine, "label_studio")
        self._worker = ThreadPoolExecutor(1, "label-studio")
        self._seen = {str(each["hook"]): each["id"] for each in engine.workspace.events if each["event"] == "hook"}

    def start(self) -> None:
        """Work on what was confirmed but not done when the last start ended."""
        done = {each.get("hook") for each in self.engine.workspace.events if each["event"] in ("accept", "correct")}
        for entry in self.engine.workspace.events:
            if entry["event"] == "hook" and entry["hook"] not in done and entry["id"] in self.engine.workspace.images:
                self._worker.submit(self._work, entry)

    def close(self) -> None:
        """Finish what was confirmed."""
        self._worker.shutdown()

    def routes(self) -> list[BaseRoute]:
        """Below ``/ls``, without the token, which the guard takes out."""
        return [
            Route("/ls/", self.health),
            Route("/ls/health", self.health),
            Route("/ls/versions", self.versions),
            Route("/ls/setup", self.setup, methods=["POST"]),
            Route("/ls/predict", self.predict, methods=["POST"]),
            Route("/ls/webhook", self.webhook, methods=["POST"]),
        ]

    async def health(self, request: Request) -> Response:
        """Whether it is there."""
        return JSONResponse({"status": "UP", "model_class": VERSION})

    async def versions(self, request: Request) -> Response:
        """There is one."""
        return JSONResponse({"versions": [VERSION]})

    async def setup(self, request: Request) -> Response:
        """Sent on every look at the settings; its access token is neither kept nor used."""
        return JSONResponse({"model_version": VERSION})

    async def predict(self, request: Request) -> Response:
        """Answer each task; without a prompt, which is when a task is merely opened, with nothing."""
        body = await json_body(request)
        tasks = body.get("tasks")
        parameters = body.get("params")
        context = parameters.get("context") if isinstance(parameters, dict) else None
        config = str(body.get("label_config") or "")

        def answers() -> list[dict[str, Any]]:
            return [
                {"result": self._answer(task, context, config), "model_version": VERSION}
                for task in (tasks if isinstance(tasks, list) else [])
            ]

        return JSONResponse({"results": await run_in_threadpool(answers)})

    async def webhook(self, request: Request) -> Response:
        """Note an annotation, confirm it, then work on it; all other events are confirmed alone."""
        body = await json_body(request)
        author = str(request.scope["state"]["author"])
        if body.get("action") in ("ANNOTATION_CREATED", "ANNOTATION_UPDATED"):
            return JSONResponse({"status": await run_in_threadpool(self._note, body, author)}, 201)
        if body.get("action") == "ANNOTATIONS_DELETED":
            await run_in_threadpool(self._say_deleted, body)
        return JSONResponse({"status": "ok"})

    def instructions(self, address: str, token: str, author: str) -> str:
        """What to do in Label Studio, for the terminal; the tasks' file is written beside."""
        tasks = write_tasks(self.engine)
        kind = {"box": "Rectangle", "point": "KeyPoint"}[self.engine.method.prompter.config.kind]
        return (
            f"Label Studio{f' for {author}' if author else ''}: start it with ML_BLOCK_LOCAL_IP=false "
            "SSRF_PROTECTION_ENABLED=false LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED=true "
            "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT=INPUT (the folder given with --input),\n"
            f"  import {tasks}, connect the model {address}/ls/{token} with interactive preannotations, and use the "
            f"labelling configuration\n{CONFIG.format(kind=kind, name=self.engine.class_name)}"
        )

    # Prompts

    def _answer(self, task: Any, context: Any, config: str) -> list[dict[str, Any]]:
        regions = context.get("result") if isinstance(context, dict) else None
        if not regions:
            return []
        try:
            image_id = self.image_of(task)
            size = self.engine.workspace.pixels.size(self.engine.board.image(image_id))
            kind = self.engine.method.prompter.config.kind
            prompts = [each for region in regions if (each := prompt_of(region, size)) is not None]
            if wrong := [each for each in prompts if kind not in each]:
                raise UserError(f"This workspace takes {kind} prompts.", found=str(wrong[0]), fix=f"draw a {kind}")
            if not prompts:
                return []
            masks, _ = self.drawn.ask(image_id, prompts)
            return [region_of(mask, *names_of(config, self.engine.class_name)) for mask in masks[-len(prompts) :]]
        except UserError as error:
            self.engine.tell(f"Label Studio: {error}")
            return []

    def image_of(self, task: Any) -> str:
        """Id of a task's picture.

        Raises:
            UserError: If it is none of ``--input``.
        """
        data = task.get("data") if isinstance(task, dict) else None
        names = [value for value in data.values() if isinstance(value, str)] if isinstance(data, dict) else []
        sources = {
            image.source.relative.as_posix(): image.id
            for image in self.engine.workspace.images.values()
            if image.source.volume is None
        }
        for name in names:
            parts = urlsplit(name)
            path = parse_qs(parts.query).get("d", [unquote(parts.path)])[0].replace("\\", "/")
            pieces = [piece for piece in path.split("/") if piece]
            for start in range(len(pieces)):  # the longest that fits
                if (found := sources.get("/".join(pieces[start:]))) is not None:
                    return found
        raise UserError(
            "A task shows a picture that is not in --input.",
            expected="/data/local-files/?d=NAME, as in the workspace's label_studio_tasks.json",
            found=str(names)[:200],
            fix="import that file; uploads to Label Studio are not fetched",
        )

    # Annotations

    def _note(self, body: Mapping[str, Any], author: str) -> str:
        """Write an annotation into the journal; a body that cannot be used is told and confirmed, or it comes never."""
        engine, annotation = self.engine, body.get("annotation")
        try:
            if not isinstance(annotation, dict):
                raise UserError("A web hook of Label Studio has no annotation.", fix="check its version")
            image_id = self.image_of(body.get("task"))
            size = engine.workspace.pixels.size(engine.board.image(image_id))
            key = f"{annotation.get('id')}@{annotation.get('updated_at')}"
            mask = mask_of(annotation.get("result"), size)
        except UserError as error:
            engine.tell(f"Label Studio: {error}")
            return "not used"
        with engine.workspace.lock:
            if key in self._seen:  # a backend that is connected twice calls twice
                return "known"
            facts = {"hook": key, "id": image_id, "mask": rle.encode(mask), "seconds": annotation.get("lead_time")}
            entry = engine.workspace.journal.append("hook", facts | {"author": author})
            self._seen[key] = image_id
        self._worker.submit(self._work, entry)
        return "accepted"

    def _say_deleted(self, body: Mapping[str, Any]) -> None:
        """What has been learned cannot be unlearned, and nothing accepted is thrown away: say so."""
        deleted = body.get("annotations")
        ids = {str(each.get("id")) for each in (deleted if isinstance(deleted, list) else []) if isinstance(each, dict)}
        for image_id in dict.fromkeys(image for key, image in self._seen.items() if key.partition("@")[0] in ids):
            name = self.engine.workspace.images[image_id].name if image_id in self.engine.workspace.images else image_id
            self.engine.tell(
                f"Label Studio: an annotation of {name} was deleted there. Its mask stays here, and the network has "
                "learned from it; submit another one there, or correct it on the page."
            )

    def _work(self, entry: Mapping[str, Any]) -> None:
        height, width = entry["mask"]["size"]
        mask = rle.decode(entry["mask"], (height, width))
        try:
            self.drawn.accept(
                entry["id"], mask, entry["author"], {"seconds": entry["seconds"]}, {"hook": entry["hook"]}
            )
        except (UserError, OSError) as error:
            self.engine.tell(f"Label Studio: annotation {entry['hook']} waits for the next start: {error}")


def prompt_of(region: Any, size: tuple[int, int]) -> dict[str, Any] | None:
    """The prompt that a region of Label Studio is; percent become whole pixels, so that drawn boxes come back exactly.

    Args:
        region: Of a context's ``result``.
        size: ``(H, W)``.

    Returns:
        None for a region that is no prompt, or a point that is on no object.

    Raises:
        UserError: If the picture is of another size, or numbers are missing.
    """
    kind = region.get("type") if isinstance(region, dict) else None
    if kind not in ("rectanglelabels", "rectangle", "keypointlabels", "keypoint"):
        return None
    height, width = size
    check_size(region, size)
    try:
        value = region["value"]
        x, y = float(value["x"]) * width / 100, float(value["y"]) * height / 100
        if kind.startswith("keypoint"):
            on_image = {"point": [min(width - 1, math.floor(x)), min(height - 1, math.floor(y))]}
            return None if region.get("is_positive") is False else on_image
        w, h = float(value["width"]) * width / 100, float(value["height"]) * height / 100
        angle = math.radians(float(value.get("rotation", 0)))
        corners = [
            (x + dx * math.cos(angle) - dy * math.sin(angle), y + dx * math.sin(angle) + dy * math.cos(angle))
            for dx, dy in ((0, 0), (w, 0), (0, h), (w, h))
        ]
        columns, rows = zip(*corners, strict=True)
        return {"box": [round(min(columns)), round(min(rows)), round(max(columns)), round(max(rows))]}
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise UserError("A region of Label Studio cannot be read.", found=str(error), fix="draw it again") from error


def check_size(region: Mapping[str, Any], size: tuple[int, int]) -> None:
    """Raise UserError unless a region was drawn on a picture of ``(H, W)`` pixels."""
    shown = (region.get("original_height"), region.get("original_width"))
    if shown != size:
        raise UserError(
            "Label Studio shows a picture of another size.",
            expected=f"{size[1]} x {size[0]}",
            found=f"{shown[1]} x {shown[0]}",
            fix="let both read the same file",
        )


def mask_of(regions: Any, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Union of an annotation's brush and bitmask regions; none: nothing is there.

    Raises:
        UserError: If a region cannot be read.
    """
    mask = np.zeros(size, np.uint8)
    for region in regions if isinstance(regions, list) else []:
        kind = region.get("type") if isinstance(region, dict) else None
        if kind not in MASKS:
            continue
        check_size(region, size)
        value = region.get("value")
        value = value if isinstance(value, dict) else {}
        mask |= _bitmap(value, size) if kind == "bitmasklabels" else label_studio_rle.decode(value.get("rle"), size)
    return mask


def _bitmap(value: Mapping[str, Any], size: tuple[int, int]) -> NDArray[np.uint8]:
    try:
        head, _, data = str(value.get("imageDataURL", "")).partition(",")
        if head != "data:image/png;base64":
            raise ValueError("no PNG")
        with Image.open(io.BytesIO(base64.b64decode(data, validate=True)), formats=["PNG"]) as image:
            if image.size != (size[1], size[0]):  # before it is decoded
                raise ValueError(f"{image.size[0]} x {image.size[1]} pixels")
            channel = image.getchannel("A") if "A" in image.getbands() else image.convert("L")
            return (np.asarray(channel) >= label_studio_rle.FOREGROUND).astype(np.uint8)
    except (OSError, ValueError, binascii.Error, SyntaxError) as error:
        raise UserError("A bitmask of Label Studio cannot be read.", found=str(error), fix="draw it again") from error


def region_of(mask: NDArray[np.uint8], name: str, image: str, label: str, number: str | None = None) -> dict[str, Any]:
    """A brush region that Label Studio draws.

    Args:
        mask: uint8 ``(H, W)``.
        name: Of the control that has brush masks.
        image: Of the object that it belongs to.
        label: The class.
        number: Id of the region; None: made of the mask.
    """
    height, width = mask.shape
    return {
        "id": number or f"{abs(hash(mask.tobytes())):x}"[:10],
        "from_name": name,
        "to_name": image,
        "type": "brushlabels",
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "value": {"format": "rle", "rle": label_studio_rle.encode(mask), "brushlabels": [label]},
    }


def names_of(config: str, class_name: str) -> tuple[str, str, str]:
    """Control and object of the first brush labels of a labelling configuration, and the label to give.

    Raises:
        UserError: If there are none.
    """
    problem = "no XML"
    if not re.search(r"<!(DOCTYPE|ENTITY)", config, re.IGNORECASE):
        try:
            for element in ElementTree.fromstring(config).iter():
                if element.tag == "BrushLabels":
                    labels = [each.get("value", "") for each in element.iter("Label")]
                    label = class_name if class_name in labels or not labels else labels[0]
                    return element.get("name", "mask"), element.get("toName", "image"), label
            problem = "no BrushLabels"
        except ElementTree.ParseError:
            pass
    raise UserError(
        "The labelling configuration has nothing to draw masks with.",
        expected="BrushLabels, as in the configuration that annotate prints",
        found=problem,
        fix="add them",
    )


def write_tasks(engine: Engine) -> Path:
    """Write the tasks to be imported into Label Studio, whose document root is ``--input``."""
    sources = dict.fromkeys(
        image.source.relative.as_posix() for image in engine.workspace.images.values() if image.source.volume is None
    )
    tasks = [{"data": {"image": f"/data/local-files/?d={quote(name)}"}} for name in sources]
    path = engine.workspace.folder / "label_studio_tasks.json"
    write_text(path, json.dumps(tasks, indent=1) + "\n")
    return path
