"""Who may talk to the server: the checks that come before any route.

* The Host must be one that the server was started for, on every request: a name that was rebound to 127.0.0.1 is not.
* Origin and Sec-Fetch-Site, where a browser sends them, must be ours. The page itself may be reached by a link.
* Below ``api/`` a token in the header Authorization. No cookies are used, so that another site cannot borrow any.
  Adapters of other programs have the token in their path, ``ls/TOKEN/...`` and ``monai/TOKEN/...``.
* Bodies are counted while they are read.
"""

import hmac
import json
from collections.abc import Iterable, Mapping
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MOST_BYTES = 64_000_000
ADAPTERS = ("ls", "monai")
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class TooLargeError(Exception):
    """A body of more than ``MOST_BYTES``."""


class Guard:
    """Lets through what may pass, as ASGI middleware.

    Args:
        app: What is guarded.
        hosts: Values of the header Host that are ours, in lower case.
        tokens: Author by token.
        most_bytes: Of a body.
    """

    def __init__(
        self, app: ASGIApp, hosts: Iterable[str], tokens: Mapping[str, str], most_bytes: int = MOST_BYTES
    ) -> None:
        self.app, self.tokens, self.most_bytes = app, dict(tokens), most_bytes
        self.hosts = frozenset(hosts)
        self.origins = frozenset(f"http://{host}" for host in self.hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check a request and pass it on."""
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
            return
        scope, problem = self._checked(scope)
        answer = _with_headers(send, secret="author" in scope.get("state", {}))
        if problem is not None:
            await _refuse(answer, *problem)
            return
        started = False

        async def note_start(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await answer(message)

        try:
            await self.app(scope, self._counted(receive), note_start)
        except TooLargeError:
            if started:
                raise
            await _refuse(answer, 413, f"The body is larger than {self.most_bytes} bytes.")

    def _checked(self, scope: Scope) -> tuple[Scope, tuple[int, str] | None]:
        """The scope that the application gets, and the status and text of a refusal."""
        headers = Headers(scope=scope)
        hosts = headers.getlist("host")
        if len(hosts) != 1 or hosts[0].lower() not in self.hosts:
            return scope, (400, "This name is not one that the server was started for; see --allow_host.")
        origins = headers.getlist("origin")
        if len(origins) > 1 or (origins and origins[0].lower() not in self.origins):
            return scope, (403, "The request comes from another site.")
        site = headers.get("sec-fetch-site", "none")
        visits = headers.get("sec-fetch-mode") == "navigate" and scope["method"] == "GET"
        first, _, rest = scope["path"].lstrip("/").partition("/")
        if site not in ("same-origin", "none") and not (visits and first not in ("api", *ADAPTERS)):
            return scope, (403, "The request comes from another site.")
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > self.most_bytes:
            return scope, (413, f"The body is larger than {self.most_bytes} bytes.")
        if first == "api":
            kind, _, token = headers.get("authorization", "").partition(" ")
            author = self._author(token) if kind.lower() == "bearer" else None
        elif first in ADAPTERS:
            token, _, rest = rest.partition("/")
            author = self._author(token)
            scope = {**scope, "path": f"/{first}/{rest}", "raw_path": None}
        else:
            return scope, None
        if author is None:
            return scope, (401, "The token is missing or is another server's: open the address that annotate printed.")
        return {**scope, "state": {**scope.get("state", {}), "author": author}}, None

    def _author(self, token: str) -> str | None:
        """Whose token it is; every one is compared, in constant time."""
        given = token.encode("utf-8", "surrogateescape")
        found = [author for known, author in self.tokens.items() if hmac.compare_digest(known.encode(), given)]
        return found[0] if found else None

    def _counted(self, receive: Receive) -> Receive:
        read = 0

        async def counted() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self.most_bytes:
                raise TooLargeError
            return message

        return counted


def _with_headers(send: Send, secret: bool) -> Send:
    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers[name] = value
            headers["Cache-Control"] = "no-store" if secret else "no-cache"
        await send(message)

    return sent


async def _refuse(send: Send, status: int, text: str) -> None:
    body = json.dumps({"error": text}).encode()
    headers: list[Any] = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status == 413:
        headers.append((b"connection", b"close"))  # the rest of the body is not read
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def local_hosts(port: int, names: Iterable[str] = ()) -> set[str]:
    """Values of Host for loopback, and for further names.

    Args:
        port: That the server listens on.
        names: Names or addresses that ``--allow_host`` gave; with a port of their own behind a tunnel or proxy.
    """
    loopback = ("127.0.0.1", "localhost", "[::1]")
    given = [name.lower() for name in names]
    whole = {name for name in given if name.rpartition(":")[2].isdigit() and not name.endswith("]")}
    bare = {*loopback, *(name for name in given if name not in whole)}
    return {f"{name}:{port}" for name in bare} | whole | ({*bare} if port == 80 else set())
