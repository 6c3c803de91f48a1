"""Calls to a Label Studio server: its project's tasks with their annotations, and the pictures uploaded to it.

The server is the one that the user has named, ``--label_studio_url``, and the key that of the environment variable
``LABEL_STUDIO_API_KEY``: nothing is fetched from another origin, whatever a task or a redirect says, and the key is
neither stored nor shown.
"""

import http.client
import json
import os
import re
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from lightning_samseg.errors import UserError
from lightning_samseg.io.files import atomic_write
from lightning_samseg.io.images import IMAGE_SUFFIXES

KEY = "LABEL_STUDIO_API_KEY"
UPLOADS = "/data/upload/"
FOLDER = "upload"
"""Below ``--input``: uploaded pictures lie there as they are called by their tasks."""
MOST_BYTES = 512_000_000
"""Of an answer."""
WAIT = 60.0
"""Seconds for an answer."""


class StayHere(urllib.request.HTTPRedirectHandler):
    """Follows redirects to the same origin alone: another one would get the key."""

    def redirect_request(self, req: Any, fp: Any, code: Any, msg: Any, headers: Any, newurl: str) -> Any:
        """Refuse another origin."""
        if urlsplit(newurl)[:2] != urlsplit(req.full_url)[:2]:
            fp.close()
            raise UserError(
                f"Label Studio sends us to another server, {urlsplit(newurl).netloc}, which does not get the key.",
                fix="give the address that the browser shows with --label_studio_url; pictures in a cloud are not "
                "fetched: put them into --input",
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class Studio:
    """One project of a server.

    Args:
        url: The project's address as the browser shows it, ``http://127.0.0.1:8080/projects/1/data``.
        key: An access token of a user: a personal one, or a legacy one where the organisation allows these.

    Raises:
        UserError: If the address has no project, or there is no key.
    """

    def __init__(self, url: str, key: str | None = None) -> None:
        parts = urlsplit(url)
        found = re.fullmatch(r"(.*)/projects/(\d+)(?:/.*)?", parts.path)
        if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc or found is None:
            raise UserError(
                f"--label_studio_url {url}",
                expected="a project's address as the browser shows it, such as http://127.0.0.1:8080/projects/1",
                fix="open the project in Label Studio and copy the address",
            )
        self.base, self.project = f"{parts.scheme}://{parts.netloc}{found[1]}", found[2]
        self._key = (os.environ.get(KEY, "") if key is None else key).strip()
        if not self._key or not self._key.isascii() or not self._key.isprintable():
            raise UserError(
                f"--label_studio_url needs a key in the environment variable {KEY}.",
                found="a value that is no key" if self._key else "none",
                fix="copy an access token from Account & Settings of Label Studio, and export it",
            )
        self._opener = urllib.request.build_opener(StayHere)

    def tasks(self) -> list[dict[str, Any]]:
        """All tasks of the project, each with its ``annotations``.

        Raises:
            UserError: If the server does not give them.
        """
        path = f"/api/projects/{self.project}/export?exportType=JSON&download_all_tasks=true"
        try:
            found = json.loads(self._get(path))
        except ValueError:
            found = None
        if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
            raise UserError(
                f"{self.base} does not answer as Label Studio does.", found=path, fix="check --label_studio_url"
            )
        return found

    def fetch_uploads(self, folder: Path, tasks: Sequence[dict[str, Any]]) -> list[Path]:
        """Fetch pictures that were uploaded to the project and are not there yet.

        Args:
            folder: ``--input``; a picture of ``/data/upload/1/NAME`` becomes ``upload/1/NAME``.
            tasks: Of the project.

        Returns:
            The new files.

        Raises:
            UserError: If one cannot be had.
        """
        new = []
        for place in dict.fromkeys(place for task in tasks if (place := self._upload_of(task)) is not None):
            path = folder / FOLDER / place
            if not path.is_file():
                content = self._get(UPLOADS + quote(place))
                path.parent.mkdir(parents=True, exist_ok=True)
                with atomic_write(path) as temporary:
                    temporary.write_bytes(content)
                new.append(path)
        return new

    def _upload_of(self, task: dict[str, Any]) -> str | None:
        """``1/NAME`` of a task whose picture was uploaded to this server, with a name that is safe to take over."""
        data = task.get("data")
        for value in data.values() if isinstance(data, dict) else ():
            if not isinstance(value, str):
                continue
            path = unquote(urlsplit(value).path) if value.startswith(("/", self.base + "/")) else ""
            found = re.fullmatch(
                f"(?:{re.escape(urlsplit(self.base).path)})?{UPLOADS}" + r"(\d+)/([^/\\\x00-\x1f]+)", path
            )
            if found and found[2][0] != "." and PurePosixPath(found[2]).suffix.lower() in IMAGE_SUFFIXES:
                return f"{found[1]}/{found[2]}"
        return None

    def _get(self, path: str) -> bytes:
        """Content of a path of the server.

        Raises:
            UserError: If it is not to be had.
        """
        headers = {"Authorization": self._authorization()}
        return self._answer(urllib.request.Request(self.base + path, headers=headers))

    def _authorization(self) -> str:
        """A personal access token is changed for one that holds some minutes; a legacy one is taken as it is."""
        if self._key.count(".") != 2:
            return f"Token {self._key}"
        body = json.dumps({"refresh": self._key}).encode()
        headers = {"Content-Type": "application/json"}
        try:
            answer = json.loads(self._answer(urllib.request.Request(f"{self.base}/api/token/refresh", body, headers)))
            return f"Bearer {answer['access']}"
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{self.base} does not know access tokens.", fix="check --label_studio_url, or use a legacy token"
            ) from error

    def _answer(self, request: urllib.request.Request) -> bytes:
        try:
            with self._opener.open(request, timeout=WAIT) as answer:
                content: bytes = answer.read(MOST_BYTES + 1)
        except urllib.error.HTTPError as error:
            error.close()
            known = {401: f"put a valid access token into {KEY}", 403: "let its user into the project"}
            raise UserError(
                f"Label Studio refuses {request.full_url}.",
                found=f"status {error.code}",
                fix=known.get(error.code, "check --label_studio_url, and that the project is there"),
            ) from error
        except (OSError, http.client.HTTPException) as error:
            raise UserError(
                f"Label Studio does not answer at {self.base}.",
                found=str(getattr(error, "reason", error)) or type(error).__name__,
                fix="start it first, or leave --label_studio_url out",
            ) from error
        if len(content) > MOST_BYTES:
            raise UserError(f"{request.full_url} is larger than {MOST_BYTES:,} bytes.", fix="put it into --input")
        return content
