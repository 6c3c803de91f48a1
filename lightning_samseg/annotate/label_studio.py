"""Label Studio's ML backend protocol: interactive boxes and points are answered, submitted annotations learned from.

Connected as ``http://127.0.0.1:PORT/ls/TOKEN``; Label Studio appends ``/health``, ``/setup``, ``/predict``,
``/webhook`` and ``/versions``. Web hooks are sent once and have to be answered within a second: an event goes to the
journal, is answered, and then worked on; what a kill leaves undone is done at the next start.

Pictures are those of ``--input``: tasks name them as ``/data/local-files/?d=...``, and nothing is fetched or opened by
a name that came from outside. With ``--label_studio_url`` pictures that were uploaded to the project are fetched into
``--input`` at the start, and annotations whose web hook never came, because nobody listened, are taken then and
whenever somebody presses Start Training.
"""

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from lightning_samseg.annotate import rle
from lightning_samseg.annotate.drawn import Drawn
from lightning_samseg.annotate.engine import Engine
from lightning_samseg.annotate.http import json_body
from lightning_samseg.annotate.label_studio_client import Studio
from lightning_samseg.annotate.label_studio_regions import mask_of, names_of, prompt_of, region_of
from lightning_samseg.errors import UserError, described
from lightning_samseg.io.text import write_text

VERSION = "AuxOl"
"""Constant: with another one Label Studio would make new rows of predictions after every lesson."""
CONFIG = """\
<View><Image name="image" value="$image"/>
  <BrushLabels name="mask" toName="image"><Label value="{name}"/></BrushLabels>
  <{kind}Labels name="prompt" toName="image" smart="true"><Label value="{name}"/></{kind}Labels></View>"""


class LabelStudio:
    """The protocol on an engine.

    Args:
        engine: Does the work.
        studio: The project, where it may be asked.
        tasks: Its tasks at the start.
    """

    def __init__(self, engine: Engine, studio: Studio | None = None, tasks: Sequence[dict[str, Any]] = ()) -> None:
        self.engine, self.drawn = engine, Drawn(engine, "label_studio")
        self.studio, self._tasks = studio, tasks
        self._worker = ThreadPoolExecutor(1, "label-studio")
        images = engine.workspace.images.values()
        self._pictures = {each.source.relative.as_posix(): each.id for each in images if each.source.volume is None}
        hooks = [each for each in engine.workspace.events if each["event"] == "hook"]
        self._seen: dict[str, str] = {known_as(*str(each["hook"]).split("@", 1)): each["id"] for each in hooks}

    def start(self) -> None:
        """Work on what was confirmed but not done when the last start ended, then on what was missed since."""
        done = {each.get("hook") for each in self.engine.workspace.events if each["event"] in ("accept", "correct")}
        for entry in self.engine.workspace.events:
            if entry["event"] == "hook" and entry["hook"] not in done and entry["id"] in self.engine.workspace.images:
                self._worker.submit(self._work, entry)
        self._worker.submit(self._take_missed, self._tasks)

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
        if body.get("action") == "START_TRAINING" and self.studio is not None:
            self._worker.submit(self._ask_for_missed, self.studio)
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
        for name in names:
            parts = urlsplit(name)
            path = parse_qs(parts.query).get("d", [unquote(parts.path)])[0].replace("\\", "/")
            pieces = [piece for piece in path.split("/") if piece]
            for start in range(len(pieces)):  # the longest that fits
                if (found := self._pictures.get("/".join(pieces[start:]))) is not None:
                    return found
        raise UserError(
            "A task shows a picture that is not in --input.",
            expected="/data/local-files/?d=NAME, as in the workspace's label_studio_tasks.json",
            found=str(names)[:200],
            fix="import that file; uploads are fetched at the start where --label_studio_url names the project",
        )

    # Annotations

    def _note(self, body: Mapping[str, Any], author: str) -> str:
        """Write an annotation into the journal; a body that cannot be used is told and confirmed, or it comes never."""
        annotation = body.get("annotation")
        try:
            if not isinstance(annotation, dict):
                raise UserError("A web hook of Label Studio has no annotation.", fix="check its version")
            image_id = self.image_of(body.get("task"))
            if annotation.get("was_cancelled"):
                return self._skip(image_id, author)
            entry = self._entry(image_id, annotation, author)
        except UserError as error:
            self.engine.tell(f"Label Studio: {error}")
            return "not used"
        if entry is None:
            return "known"
        self._worker.submit(self._work, entry)
        return "accepted"

    def _entry(self, image_id: str, annotation: Mapping[str, Any], author: str) -> dict[str, Any] | None:
        """The journal's line of an annotation; None where it has one: a backend that is connected twice calls twice.

        Raises:
            UserError: If its masks cannot be read.
        """
        workspace = self.engine.workspace
        mask = mask_of(annotation.get("result"), workspace.pixels.size(self.engine.board.image(image_id)))
        number, changed = str(annotation.get("id")), str(annotation.get("updated_at"))
        with workspace.lock:
            if known_as(number, changed) in self._seen:
                return None
            facts: dict[str, Any] = {"hook": f"{number}@{changed}", "id": image_id, "mask": rle.encode(mask)}
            facts |= {"seconds": annotation.get("lead_time"), "author": author}
            entry = workspace.journal.append("hook", facts)
            self._seen[known_as(number, changed)] = image_id
        return entry

    def _skip(self, image_id: str, author: str) -> str:
        """A task that was skipped there says nothing about its picture."""
        known = self.engine.workspace.known[image_id]
        if known.state in ("open", "draft"):
            self.engine.skip(image_id, known.revision, "skipped in Label Studio", author)
        return "skipped"

    def _ask_for_missed(self, studio: Studio) -> None:
        try:
            self._take_missed(studio.tasks())
        except UserError as error:
            self.engine.tell(f"Label Studio: {error}")

    def _take_missed(self, tasks: Sequence[dict[str, Any]]) -> None:
        """Take annotations whose web hook never came; a mask that is accepted already is none, whoever sent it."""
        taken, foreign = 0, 0
        for task in tasks:
            made = [each for each in task.get("annotations") or () if isinstance(each, dict)]
            for annotation in sorted(made, key=lambda each: str(each.get("updated_at"))):
                if annotation.get("was_cancelled"):
                    continue
                try:
                    entry = self._entry(self.image_of(task), annotation, "")
                except UserError:
                    foreign += 1
                    continue
                except OSError as error:  # a full disk
                    self.engine.tell(f"Label Studio: annotations wait for the next start: {described(error) or error}")
                    return
                if entry is not None and self.engine.workspace.known[entry["id"]].accepted != entry["mask"]:
                    self._work(entry)
                    taken += 1
        if taken:
            self.engine.tell(f"Label Studio: {taken} annotations are taken whose web hook did not come.")
        if foreign:
            self.engine.tell(
                f"Label Studio: {foreign} annotations of the project cannot be used: their pictures are not in --input "
                "or of another size. Pictures uploaded since the start are fetched at the next one."
            )

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


def known_as(number: str, changed: str = "") -> str:
    """An annotation and when it was changed, however the time is written."""
    try:
        moment = datetime.fromisoformat(changed.replace("Z", "+00:00"))
        return f"{number}@{moment.astimezone(timezone.utc).isoformat()}"
    except (ValueError, OverflowError):
        return f"{number}@{changed}"


def write_tasks(engine: Engine) -> Path:
    """Write the tasks to be imported into Label Studio, whose document root is ``--input``."""
    sources = dict.fromkeys(
        image.source.relative.as_posix() for image in engine.workspace.images.values() if image.source.volume is None
    )
    tasks = [{"data": {"image": f"/data/local-files/?d={quote(name)}"}} for name in sources]
    path = engine.workspace.folder / "label_studio_tasks.json"
    write_text(path, json.dumps(tasks, indent=1) + "\n")
    return path
