"""A program's way to a server of ``annotate``, by the standard library alone; the calls are in ``annotate.http``."""

import http.client
import json
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from lightning_samseg.errors import UserError


class Client:
    """One tab of a workspace. Its calls wait for their answers; a thread of its own needs a client of its own.

    Args:
        url: The address that ``annotate`` prints, with its token: ``http://127.0.0.1:8765/#t=TOKEN``.
        tab: Name of the tab; two with the same name share their leases.
        timeout: Longest wait for an answer in seconds.

    Raises:
        UserError: If the address has no token.
    """

    def __init__(self, url: str, tab: str = "client", timeout: float = 600.0) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or not parts.fragment.startswith("t="):
            raise UserError(
                f"{url} is no address of a workspace.",
                expected="http://127.0.0.1:8765/#t=TOKEN",
                fix="copy the whole address that annotate has printed",
            )
        self.base = parts.path.rstrip("/")
        self.headers = {"Authorization": f"Bearer {parts.fragment[2:]}", "Tab": tab}
        self.tab = tab
        kind = http.client.HTTPConnection if parts.scheme == "http" else http.client.HTTPSConnection  # behind a proxy
        self.connection = kind(parts.hostname, parts.port, timeout=timeout)

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """Say something; gives the answer, empty where there is none.

        Raises:
            UserError: What the server has refused, in its words, or that there is no server.
        """
        answer, content = self._send(method, path, None if body is None else json.dumps(body).encode())
        if answer.status == 204:
            return {"revision": int(answer.headers["Revision"])}
        return dict(json.loads(content))

    def workspace(self) -> dict[str, Any]:
        """What there is."""
        return self.call("GET", "workspace")

    def open(self, image_id: str) -> dict[str, Any]:
        """Take an image, with its draft."""
        return self.call("POST", f"images/{image_id}/open", {"tab": self.tab})

    def pixels(self, image_id: str) -> NDArray[Any]:
        """Raw values, ``(H, W)`` or ``(H, W, 3)``."""
        answer, content = self._send("GET", f"images/{image_id}/pixels", None)
        shape = [int(side) for side in answer.headers["Shape"].split(",")]
        return np.frombuffer(content, np.dtype(answer.headers["Dtype"]).newbyteorder("<")).reshape(shape)

    def ask(self, image_id: str, prompts: list[dict[str, Any]], sam_only: bool = False) -> dict[str, Any]:
        """Ask for masks."""
        return self.call("POST", f"images/{image_id}/ask", {"prompts": prompts, "sam_only": sam_only})

    def draft(self, image_id: str, revision: int, prompts: Any, mask: Any, effort: dict[str, Any] | None = None) -> int:
        """Keep what is on the screen; gives the new revision."""
        return int(self.call("PUT", f"images/{image_id}/draft", _work(revision, prompts, mask, effort))["revision"])

    def accept(
        self, image_id: str, revision: int, prompts: Any, mask: Any, effort: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Accept a mask."""
        return self.call("POST", f"images/{image_id}/accept", _work(revision, prompts, mask, effort))

    def skip(self, image_id: str, revision: int, reason: str = "") -> dict[str, Any]:
        """Leave an image out."""
        return self.call("POST", f"images/{image_id}/skip", {"revision": revision, "reason": reason})

    def close(self) -> None:
        """Hang up."""
        self.connection.close()

    def _send(self, method: str, path: str, body: bytes | None) -> tuple[http.client.HTTPResponse, bytes]:
        headers = self.headers | ({} if body is None else {"Content-Type": "application/json"})
        try:
            self.connection.request(method, f"{self.base}/api/{path}", body, headers)
            answer = self.connection.getresponse()
            content = answer.read()
        except (OSError, http.client.HTTPException) as error:
            self.connection.close()  # the next call starts anew
            raise UserError(
                f"The server of annotate does not answer ({type(error).__name__}: {error}).",
                fix="start it again; what was accepted is kept",
            ) from error
        if answer.status >= 400:
            raise UserError(
                _reason(content) or "The server refuses.",
                found=f"{method} {path}: status {answer.status}",
                fix="open the image anew; what was accepted is kept",
            )
        return answer, content


def _work(revision: int, prompts: Any, mask: Any, effort: dict[str, Any] | None) -> dict[str, Any]:
    """The body of a draft and of an accept."""
    return {"revision": revision, "prompts": prompts, "mask": mask, "effort": effort or {}}


def _reason(content: bytes) -> str:
    try:
        return str(json.loads(content)["error"])
    except (ValueError, KeyError, TypeError):
        return ""
