"""What the page and other programs say to the server, and who may say it.

Every call lies under ``api/``, relative to the page, and carries ``Authorization: Bearer TOKEN``; bodies and answers
are JSON unless said. A header ``Tab: NAME``, any text of 1 to 64 letters, digits, ``-`` and ``_``, keeps that tab's
leases alive. Bodies may be sent with ``Content-Encoding: gzip``.

Values::

    mask      {"size": [H, W], "counts": [n, n, ...]}   row-major runs, background first, sum = H * W
    prompt    {"box": [x0, y0, x1, y1]}  half open, in image pixels     or  {"point": [x, y]}  a pixel's indices
    effort    {"seconds": s, "strokes": n, "undos": n}  active seconds of the open image so far; all optional
    state     "open" (not begun), "draft", "accepted", "skipped", "failed" (cannot be read), "gone" (no longer there)
    image     {"id", "name", "state", "position" (in the stream, or null), "reason" (of a skip or a failure, or null),
               "blind", "lease" ({"tab", "author"} or null)}

Calls::

    GET  workspace             {"workspace": a name that no other has, "version", "class", "prompt": "box" | "point",
                                "settings": {...}, "images": [image],
                                "next": id | null, "numbers": {...}, "learned", "pending", "lesson_seconds",
                                "notes": [text], "author"}
    GET  images/ID/pixels      raw values, row-major, little endian, gzip. Headers: Shape "H,W" or "H,W,3"; Dtype
                                "uint8", "uint16", "int16", "int32", "uint32", "float32" or "float64"; Window "low,high"
                                (percentiles 0.5 and 99.5). A colour picture is uint8; grey has the depth of its file.
    POST images/ID/open        {"tab", "take_over": false} -> {"image", "revision", "prompts", "mask": draft | null,
                                "effort", "accepted": mask | null, "blind", "size": [H, W]}; 409 {"error", "lease"} if
                                another tab holds it
    POST images/ID/ask         {"prompts", "sam_only": false} -> {"prompts": [{"sam": mask, "fused": mask | null,
                                "crop": [x0, y0, x1, y1], "alpha"}], "sam": mask, "sam_clipped": mask,
                                "fused": mask | null, "alpha" (mean, or null), "learned", "pending"}.
                                ``sam_only`` waits for no lesson, fixes no snapshot and answers without the network.
                                ``fused`` is null then, and where the image is blind.
    PUT  images/ID/draft       {"revision", "prompts", "mask", "effort"} -> 204 with the header Revision
    POST images/ID/accept      {"revision", "prompts", "mask", "effort"} -> {"position", "corrected", "next": id | null,
                                "revision", "numbers", "fused": mask | null (of a blind image, now shown)}
    POST images/ID/skip        {"revision", "reason"} -> {"next", "revision"}
    POST images/ID/reopen      {} -> as open; a skipped image is open again, an accepted one keeps its place in the
                                stream, and the next accept replaces its mask
    GET  events                server-sent events. ``learned`` {"learned", "pending", "alpha", "numbers"}; ``image``
                                the image; ``note`` {"text"}. Resumed by the header Last-Event-ID; a comment every 15 s

``revision`` counts the writes to an image: a write names the one it has seen, and the answer the new one. Another one
is refused with 409 {"error", "revision", "prompts", "mask", "effort"}, what the server has. Taking over counts as a
write. An accept that is sent twice is answered twice and learned once.

Errors are {"error": text for the user} with status 400 (not understood), 401 (token), 403 (origin), 404 (no such
image), 409 (another tab, or an old revision), 413 (too large), 422 (an image or prompt that cannot be used), 507 (the
disk is full; nothing is lost, send it again). 400 and 403 for a foreign Host or Origin.
"""

import errno
import gzip
import json
import re
import sys
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from lightning_samseg import __version__
from lightning_samseg.annotate.board import NotFoundError
from lightning_samseg.annotate.engine import Engine
from lightning_samseg.annotate.leases import HeldError
from lightning_samseg.annotate.security import MOST_BYTES, Guard
from lightning_samseg.annotate.workspace import OldRevisionError
from lightning_samseg.errors import UserError

PAGE = Path(__file__).parent / "page"
WORTH_PACKING = 4_000_000
"""Bytes: more travel faster over loopback than they are packed."""
WINDOW_PIXELS = 1_000_000
"""Enough to estimate percentiles from."""
_TAB = re.compile(r"[A-Za-z0-9_-]{1,64}")


class Api:
    """The calls, on an engine.

    Args:
        engine: Does what they say.
        facts: Joined to the answer of ``workspace``: ``workspace``, ``settings`` and ``lesson_seconds``.
    """

    def __init__(self, engine: Engine, facts: Mapping[str, Any]) -> None:
        self.engine, self.facts = engine, dict(facts)

    def routes(self) -> list[BaseRoute]:
        """Everything below ``api/``."""
        image = "/api/images/{id}"
        return [
            Route("/api/workspace", self.workspace),
            Route("/api/events", self.events),
            Route(f"{image}/pixels", self.pixels),
            Route(f"{image}/open", self.open, methods=["POST"]),
            Route(f"{image}/ask", self.ask, methods=["POST"]),
            Route(f"{image}/draft", self.draft, methods=["PUT"]),
            Route(f"{image}/accept", self.accept, methods=["POST"]),
            Route(f"{image}/skip", self.skip, methods=["POST"]),
            Route(f"{image}/reopen", self.reopen, methods=["POST"]),
        ]

    async def workspace(self, request: Request) -> Response:
        """What there is."""
        author, tab, engine = self._who(request)[0], self._who(request)[1], self.engine

        def overview() -> dict[str, Any]:
            with engine.workspace.lock:
                images = [engine.board.describe(name) for name in engine.workspace.known]
            return {
                "version": __version__,
                "class": engine.class_name,
                "prompt": engine.method.prompter.config.kind,
                "images": images,
                "next": engine.board.next_image(None, tab),
                "numbers": engine.board.numbers(),
                "learned": engine.stream.snapshot.lessons,
                "pending": engine.stream.pending,
                "notes": engine.notes,
                "author": author,
                **self.facts,
            }

        return JSONResponse(await run_in_threadpool(overview))

    async def pixels(self, request: Request) -> Response:
        """Raw values."""
        packs = "gzip" in request.headers.get("accept-encoding", "")
        return await run_in_threadpool(self._pixels, request.path_params["id"], packs)

    def _pixels(self, image_id: str, packs: bool) -> Response:
        values = np.ascontiguousarray(self.engine.pixels(image_id))
        values = values.astype(np.uint8) if values.dtype == np.bool_ else values
        body = values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()
        low, high = _window(values)
        headers = {
            "Shape": ",".join(map(str, values.shape)),
            "Dtype": values.dtype.name,
            "Window": f"{low:.9g},{high:.9g}",
        }
        if packs and len(body) < WORTH_PACKING:
            body, headers["Content-Encoding"] = gzip.compress(body, 1), "gzip"
        return Response(body, headers=headers, media_type="application/octet-stream")

    async def open(self, request: Request) -> Response:
        """Give an image to a tab."""
        body, (author, tab) = await json_body(request), self._who(request)
        tab = _tab(body.get("tab", tab))
        take = body.get("take_over", False) is True
        return await self._do(self.engine.open, request.path_params["id"], tab, author, take)

    async def ask(self, request: Request) -> Response:
        """Answer prompts."""
        body, _ = await json_body(request), self._who(request)
        only = body.get("sam_only", False) is True
        return await self._do(self.engine.ask, request.path_params["id"], body.get("prompts"), only)

    async def draft(self, request: Request) -> Response:
        """Keep what is on the screen."""
        body, _ = await json_body(request), self._who(request)
        image_id, revision = request.path_params["id"], _revision(body)
        fields = (body.get("prompts", []), body.get("mask"), body.get("effort"))
        new = await run_in_threadpool(self.engine.draft, image_id, revision, *fields)
        return Response(status_code=204, headers={"Revision": str(new)})

    async def accept(self, request: Request) -> Response:
        """Into the stream."""
        body, (author, tab) = await json_body(request), self._who(request)
        image_id, engine = request.path_params["id"], self.engine
        fields = (_revision(body), body.get("prompts", []), body.get("mask"), body.get("effort"))

        def accept() -> dict[str, Any]:
            return engine.accept(image_id, *fields, author=author, tab=tab)

        return await self._do(accept)

    async def skip(self, request: Request) -> Response:
        """Out of the stream."""
        body, (author, tab) = await json_body(request), self._who(request)
        fields = (_revision(body), str(body.get("reason", "")), author, tab)
        return await self._do(self.engine.skip, request.path_params["id"], *fields)

    async def reopen(self, request: Request) -> Response:
        """Once more."""
        body, (author, tab) = await json_body(request), self._who(request)
        return await self._do(self.engine.reopen, request.path_params["id"], _tab(body.get("tab", tab)), author)

    async def events(self, request: Request) -> Response:
        """What happens, as it happens."""
        _, tab = self._who(request)
        last = request.headers.get("last-event-id", "")

        async def lines() -> AsyncIterator[str]:
            yield ": here\n\n"
            async for event in self.engine.events.listen(int(last) if last.isdigit() else None):
                if tab is not None:
                    self._alive(tab)
                if event is None:
                    yield ": heartbeat\n\n"
                else:
                    data = json.dumps(event.data, separators=(",", ":"))
                    yield f"id: {event.number}\nevent: {event.name}\ndata: {data}\n\n"

        unbuffered = {"X-Accel-Buffering": "no"}  # or nginx would keep events back
        return StreamingResponse(lines(), media_type="text/event-stream", headers=unbuffered)

    def _who(self, request: Request) -> tuple[str, str | None]:
        """Author and tab; a tab that speaks is alive."""
        tab = request.headers.get("tab")
        if tab is not None:
            self._alive(_tab(tab))
        return str(request.scope["state"]["author"]), tab

    def _alive(self, tab: str) -> None:
        self.engine.board.leases.sign_of_life(tab)

    async def _do(self, call: Callable[..., dict[str, Any]], *arguments: Any) -> Response:
        return JSONResponse(await run_in_threadpool(call, *arguments))


def create_app(
    engine: Engine,
    addresses: Iterable[str],
    tokens: Mapping[str, str],
    facts: Mapping[str, Any] | None = None,
    adapters: Iterable[BaseRoute] = (),
    most_bytes: int = MOST_BYTES,
) -> Starlette:
    """Put the server together.

    Args:
        engine: Does the work.
        addresses: See ``security.Guard``.
        tokens: Author by token.
        facts: See ``Api``.
        adapters: Routes of other programs' protocols, below ``ls/`` and ``monai/``.
        most_bytes: Of a body.
    """
    return Starlette(
        routes=[
            *Api(engine, facts or {"workspace": "", "settings": {}, "lesson_seconds": None}).routes(),
            *adapters,
            Mount("/", StaticFiles(directory=PAGE, html=True)),
        ],
        middleware=[Middleware(Guard, addresses=addresses, tokens=tokens, most_bytes=most_bytes)],
        exception_handlers=HANDLERS,
    )


def _window(values: NDArray[Any]) -> tuple[float, float]:
    """Percentiles 0.5 and 99.5, of a part of large images."""
    part = values.reshape(-1)[:: max(1, values.size // WINDOW_PIXELS)]
    low, high = np.percentile(part, (0.5, 99.5))
    return float(low), float(high)


async def json_body(request: Request) -> dict[str, Any]:
    """The body's JSON object.

    Raises:
        HTTPException: If it is none.
    """
    data = await request.body()
    try:
        if request.headers.get("content-encoding") == "gzip":
            data = unpacked(data)
        value = json.loads(data or b"{}", parse_constant=_no_constant)
    except (ValueError, RecursionError, zlib.error, EOFError) as error:
        raise HTTPException(400, f"The body is no JSON: {str(error)[:100]}") from error
    if not isinstance(value, dict):
        raise HTTPException(400, "The body is no JSON object.")
    return value


def unpacked(data: bytes, most: int = MOST_BYTES) -> bytes:
    """Unpack gzip, but not more than that many bytes.

    Raises:
        HTTPException: If there are more.
        zlib.error: If it is damaged.
    """
    unpacker = zlib.decompressobj(31)
    content = unpacker.decompress(data, most)
    if unpacker.unconsumed_tail:
        raise HTTPException(413, f"The body is larger than {most} bytes.")
    return content


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def _revision(body: Mapping[str, Any]) -> int:
    revision = body.get("revision")
    if type(revision) is not int:
        raise HTTPException(400, "The write does not say which revision it has seen.")
    return revision


def _tab(value: Any) -> str:
    if not isinstance(value, str) or not _TAB.fullmatch(value):
        raise HTTPException(400, "A tab has a name of 1 to 64 letters, digits, - and _.")
    return value


def _error(status: int, text: str, **more: Any) -> JSONResponse:
    return JSONResponse({"error": text, **more}, status)


Handler = Callable[[Request, Any], Awaitable[Response]]


async def _on_http(request: Request, error: Any) -> Response:
    return _error(error.status_code, str(error.detail))


async def _on_not_found(request: Request, error: Any) -> Response:
    return _error(404, "There is no such image.")


async def _on_user_error(request: Request, error: Any) -> Response:
    return _error(422, str(error))


async def _on_old_revision(request: Request, error: Any) -> Response:
    known = error.known
    draft = known.draft
    mask = known.accepted if draft is None else draft.mask
    prompts, spent = (known.prompts, {}) if draft is None else (draft.prompts, draft.effort)
    return _error(409, str(error), revision=known.revision, prompts=prompts, mask=mask, effort=spent)


async def _on_held(request: Request, error: Any) -> Response:
    return _error(409, str(error), lease=error.lease)


async def _on_os_error(request: Request, error: Any) -> Response:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return _error(507, "The disk is full. Nothing is lost: make room and send it again.")
    print(f"error: {error}", file=sys.stderr)
    return _error(500, f"A file of the workspace cannot be written: {error.strerror}.")


async def _on_error(request: Request, error: Any) -> Response:
    return _error(500, f"The server failed: {type(error).__name__}. The terminal says more.")


HANDLERS: Mapping[Any, Handler] = {
    HTTPException: _on_http,
    NotFoundError: _on_not_found,
    UserError: _on_user_error,
    OldRevisionError: _on_old_revision,
    HeldError: _on_held,
    OSError: _on_os_error,
    Exception: _on_error,
}
