"""MONAI Label's REST calls, for 3D Slicer and the Python client: volumes, slice by slice.

The server's address is ``http://127.0.0.1:PORT/monai/TOKEN``. Places ``[i, j, k]`` are a file's indices: column, row,
slice. A region of interest names the centres of its outermost voxels, in any order. Only slices in which something is
drawn, or of which a prompt was asked, are accepted when a label is uploaded: a slice that nobody looked at teaches
nothing. A label may be uploaded after every slice, so that the next one profits; unchanged slices stay as they are.
"""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Route

from lightning_samseg import __version__
from lightning_samseg.annotate import rle
from lightning_samseg.annotate.board import NotFoundError
from lightning_samseg.annotate.drawn import Drawn
from lightning_samseg.annotate.engine import Engine
from lightning_samseg.annotate.http import json_body
from lightning_samseg.annotate.images import WorkImage, volume_labels
from lightning_samseg.errors import UserError
from lightning_samseg.io.volumes import ending_of, is_volume, open_volume, read_volume, write_mask_like

MODELS = {"aux_ol": "deepgrow", "current": "segmentation"}
"""``current`` gives back what there is: Slicer asks for a model of this type on every new sample."""


class MonaiLabel:
    """The protocol on an engine.

    Args:
        engine: Does the work.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine, self.drawn = engine, Drawn(engine, "monai_label")
        volumes: dict[str, list[WorkImage]] = {}
        for image in engine.workspace.images.values():
            if image.source.volume is not None:
                volumes.setdefault(image.source.name, []).append(image)
        self.volumes = {name: sorted(images, key=lambda each: each.index) for name, images in volumes.items()}

    def start(self) -> None:
        """There is nothing to catch up with: an upload is answered when it is accepted."""

    def close(self) -> None:
        """There is nothing to end."""

    def instructions(self, address: str, token: str, author: str) -> str:
        """What to enter in 3D Slicer, for the terminal."""
        who = f" for {author}" if author else ""
        none = "" if self.volumes else " (there are no volumes in --input)"
        return f"MONAI Label server{who}: {address}/monai/{token}{none}"

    def routes(self) -> list[BaseRoute]:
        """Below ``/monai``, without the token, which the guard takes out."""
        return [
            Route("/monai/info/", self.info),
            Route("/monai/activelearning/{strategy}", self.sample, methods=["POST"]),
            Route("/monai/datastore/", self.datastore),
            Route("/monai/datastore/", self.not_here, methods=["PUT", "DELETE"]),
            Route("/monai/datastore/image", self.image, methods=["GET", "HEAD"]),
            Route("/monai/datastore/label", self.label, methods=["GET"]),
            Route("/monai/datastore/label", self.submit, methods=["PUT"]),
            Route("/monai/infer/{model}", self.infer, methods=["POST"]),
            Route("/monai/train/", self.training, methods=["GET"]),
            Route("/monai/train/", self.trained, methods=["POST", "DELETE"]),
            Route("/monai/train/{model}", self.trained, methods=["POST"]),
            Route("/monai/session/", self.not_here, methods=["GET", "PUT", "DELETE"]),
        ]

    async def info(self, request: Request) -> Response:
        """What there is; without ``config``, with which Slicer refuses a server."""
        name = self.engine.class_name
        numbers = await run_in_threadpool(self.engine.board.numbers)
        models = {
            model: {"type": kind, "labels": [name], "dimension": 2, "description": "AuxOL", "config": {}}
            for model, kind in MODELS.items()
        }
        return JSONResponse(
            {
                "name": "lightning_samseg",
                "description": "SAM and a network that learns from every label",
                "version": __version__,
                "labels": [name],
                "models": models,
                "trainers": {},
                "strategies": {"stream": {"description": "The next volume by name"}},
                "scoring": {},
                "train_stats": {"aux_ol": {"best_metric": numbers["dsc"]["aux_ol"] or 0.0}},
                "datastore": {"total": len(self.volumes), "completed": len(self._completed()), "label_tags": {}},
            }
        )

    async def sample(self, request: Request) -> Response:
        """The next volume in which not every slice is done."""
        completed = self._completed()
        name = next((name for name in self.volumes if name not in completed), None)
        if name is None:
            return JSONResponse({})
        path = str(self.volumes[name][0].source.path.resolve())
        return JSONResponse({"id": name, "name": Path(path).name, "path": path, "weight": {}})

    async def datastore(self, request: Request) -> Response:
        """All volumes, and which have labels."""
        labelled = self._labelled()
        objects = {
            name: {
                "image": {"ext": ending_of(images[0].source.path), "info": {}},
                "labels": {"final": {"ext": ending_of(images[0].source.path), "info": {}}} if name in labelled else {},
            }
            for name, images in self.volumes.items()
        }
        return JSONResponse({"name": "workspace", "description": "", "objects": objects})

    async def image(self, request: Request) -> Response:
        """A volume's file."""
        path = self._volume(request.query_params.get("image"))[0].source.path
        return FileResponse(path, filename=path.name, media_type="application/octet-stream")

    async def label(self, request: Request) -> Response:
        """The masks accepted of a volume."""
        images = self._volume(request.query_params.get("label"))
        return await run_in_threadpool(self._file, images, self._accepted(images))

    async def infer(self, request: Request) -> Response:
        """Answer a point or box on a slice; ``current``: what is accepted."""
        model = request.path_params["model"]
        if model not in MODELS:
            raise HTTPException(404, f"There is no model {model}.")
        images = self._volume(request.query_params.get("image"))
        parameters = await _parameters(request)
        result = await run_in_threadpool(self._infer, model, images, parameters)
        answer = {"label_names": {self.engine.class_name: 1}, "latencies": {}}
        if request.query_params.get("output") == "json":
            return JSONResponse(answer)
        file = await run_in_threadpool(self._file, images, result)
        if request.query_params.get("output") == "image":
            return file
        return _multipart(answer, bytes(file.body), f"label{ending_of(images[0].source.path)}")

    async def submit(self, request: Request) -> Response:
        """Accept the masks of a volume."""
        name = request.query_params.get("image")
        images = self._volume(name)
        async with request.form(max_files=2, max_fields=4) as form:
            upload = form.get("label")
            if not isinstance(upload, UploadFile):
                raise HTTPException(400, "There is no file in the field label.")
            content = await upload.read()
            name_given = upload.filename or ""
            whole = is_volume(name_given) and ending_of(name_given) != ".mhd"  # which keeps its values in another file
            ending = ending_of(name_given) if whole else ".nii.gz"
        author = str(request.scope["state"]["author"])
        await run_in_threadpool(self._submit, images, content, ending, author)
        return JSONResponse({"image": name, "label": name})

    async def training(self, request: Request) -> Response:
        """Asked at every redraw: it learns by itself."""
        raise HTTPException(404, "No training is running: the network learns from every label.")

    async def trained(self, request: Request) -> Response:
        """Nothing has to be started."""
        return JSONResponse({"status": "The network learns from every label by itself."})

    async def not_here(self, request: Request) -> Response:
        """Uploads and sessions."""
        raise HTTPException(501, "Images are those of --input: put files there and start annotate again.")

    def _infer(self, model: str, images: list[WorkImage], parameters: Mapping[str, Any]) -> NDArray[np.uint8]:
        labels = self._accepted(images)
        if model == "current":
            return labels
        labels = np.zeros_like(labels)  # a model of two dimensions fills the slices that it was asked about
        for index, prompts in prompts_of(parameters, len(images), self.engine.method.prompter.config.kind).items():
            masks, _ = self.drawn.ask(images[index].id, prompts)
            labels[index] = np.logical_or.reduce(masks)
        return labels

    def _submit(self, images: list[WorkImage], content: bytes, ending: str, author: str) -> None:
        volume = images[0].source.volume
        assert volume is not None
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"label{ending}"
            path.write_bytes(content)
            mask = open_volume(path)
            if mask.shape != volume.shape:
                raise UserError(
                    f"The label does not fit {images[0].source.name}.",
                    expected=" x ".join(map(str, volume.shape)) + " (slices, rows, columns)",
                    found=" x ".join(map(str, mask.shape)),
                    fix="export it in the volume's own geometry",
                )
            labels = read_volume(mask)
        for image, label in zip(images, labels, strict=True):
            known = self.engine.workspace.known[image.id]
            if known.accepted == rle.encode(label):
                continue
            if label.any() or known.position is not None or known.draft is not None:
                self.drawn.accept(image.id, (label != 0).astype(np.uint8), author)

    def _file(self, images: list[WorkImage], labels: NDArray[np.uint8]) -> Response:
        volume = images[0].source.volume
        assert volume is not None
        ending = ending_of(images[0].source.path)
        ending = ".mha" if ending == ".mhd" else ending  # one file
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"label{ending}"
            write_mask_like(volume, path, labels)
            headers = {"Content-Disposition": f'attachment; filename="label{ending}"'}
            return Response(path.read_bytes(), headers=headers, media_type="application/octet-stream")

    def _accepted(self, images: list[WorkImage]) -> NDArray[np.uint8]:
        _, masks = self.engine.workspace.masks_of(images[0].source.path)
        return volume_labels(images, masks)

    def _volume(self, name: str | None) -> list[WorkImage]:
        if name not in self.volumes:
            raise NotFoundError(name)
        return self.volumes[name]

    def _labelled(self) -> set[str]:
        known = self.engine.workspace.known
        return {n for n, images in self.volumes.items() if any(known[each.id].accepted for each in images)}

    def _completed(self) -> set[str]:
        known = self.engine.workspace.known
        done = ("accepted", "skipped", "failed")
        return {n for n, images in self.volumes.items() if all(known[each.id].state in done for each in images)} | (
            self._labelled()
        )


def prompts_of(parameters: Mapping[str, Any], slices: int, kind: str) -> dict[int, list[dict[str, Any]]]:
    """Prompts by slice.

    Args:
        parameters: ``foreground``, places ``[i, j, k]``, and ``roi``, ``[i0, i1, j0, j1, k0, k1]``.
        slices: Of the volume.
        kind: ``box`` or ``point``.

    Raises:
        UserError: If they lie outside of the volume or are of another kind.
    """
    prompts: dict[int, list[dict[str, Any]]] = {}
    try:
        if kind == "point":
            for i, j, k in parameters.get("foreground") or []:
                prompts.setdefault(round(k), []).append({"point": [round(i), round(j)]})
        elif (roi := parameters.get("roi")) and len(roi) == 6:
            (i0, i1), (j0, j1), (k0, k1) = (sorted(map(round, roi[axis : axis + 2])) for axis in (0, 2, 4))
            chosen = parameters.get("slice")
            places = range(k0, k1 + 1) if chosen is None else [round(chosen)]
            prompts = {k: [{"box": [i0, j0, i1 + 1, j1 + 1]}] for k in places}
    except (TypeError, ValueError, OverflowError) as error:
        raise UserError("The prompts cannot be read.", found=str(error), fix="place them anew") from error
    outside = [k for k in prompts if not 0 <= k < slices]
    if outside or not prompts:
        raise UserError(
            f"There is no {kind} in the volume.",
            expected=f"a {kind} in slices 0..{slices - 1}",
            found=f"slice {outside[0]}" if outside else "none",
            fix="place one; the kind is chosen when a workspace is made, with --prompt",
        )
    return prompts


async def _parameters(request: Request) -> dict[str, Any]:
    """The field ``params`` of a form, or a body of JSON."""
    if not request.headers.get("content-type", "").startswith(("multipart/", "application/x-www-form")):
        return await json_body(request)
    async with request.form(max_files=2, max_fields=4) as form:
        try:
            value = json.loads(str(form.get("params") or "{}"))
        except (ValueError, RecursionError) as error:
            raise HTTPException(400, "The field params is no JSON.") from error
    if not isinstance(value, dict):
        raise HTTPException(400, "The field params is no JSON object.")
    return value


def _multipart(parameters: dict[str, Any], content: bytes, name: str) -> Response:
    boundary = "samseg-7c1f0c0e5e0a4d1b"
    parts = [
        b"--" + boundary.encode(),
        b'Content-Disposition: form-data; name="params"\r\nContent-Type: application/json\r\n',
        json.dumps(parameters).encode(),
        b"--" + boundary.encode(),
        f'Content-Disposition: form-data; name="image"; filename="{name}"'.encode(),
        b"Content-Type: application/octet-stream\r\n",
        content,
        b"--" + boundary.encode() + b"--\r\n",
    ]
    return Response(b"\r\n".join(parts), media_type=f"multipart/form-data; boundary={boundary}")
