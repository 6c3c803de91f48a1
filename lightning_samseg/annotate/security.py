"""Who may talk to the server: the checks that come before any route.

* The Host must be one that the server was started for, on every request: a name that was rebound to 127.0.0.1 is not.
* Origin and Sec-Fetch-Site, where a browser sends them, must be ours. The page itself may be reached by a link.
* Below ``api/`` a token in the header Authorization. No cookies are used, so that another site cannot borrow any.
  Adapters of other programs have the token in their path, ``ls/TOKEN/...`` and ``monai/TOKEN/...``.
* Bodies are counted while they are read.

Behind a proxy the page has an address of its own, ``https://hub.test/user/anna/``, that ``--allow_host`` names: its
Host and its Origin are ours then, and its path is cut off where the proxy has left it.
"""

import hmac
import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lightning_samseg.errors import UserError

MOST_BYTES = 64_000_000
ADAPTERS = ("ls", "monai")
KEPT = ("api", *ADAPTERS)
"""First parts of paths that need a token."""
OTHER_SITE = (
    "The request comes from another site. Behind a proxy: start annotate with --allow_host and the address that the "
    "browser shows."
)
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


STANDARD = {"http": 80, "https": 443}
"""Ports that browsers do not show."""


class Address(NamedTuple):
    """Where browsers find the page."""

    scheme: str
    netloc: str
    """Name, and port where it is not the scheme's."""
    path: str
    """Without a slash at its end; empty: it has a server of its own."""

    @property
    def origin(self) -> str:
        """As browsers send it."""
        return f"{self.scheme}://{self.netloc}"

    def __str__(self) -> str:
        """Without a slash at its end."""
        return self.origin + self.path


def address_of(text: str, port: int | None = None) -> Address:
    """Read a name, ``name:port``, or a whole address.

    Args:
        text: As ``--allow_host`` gives it.
        port: Of a name that comes without one; None: the standard one.

    Raises:
        UserError: If it is none.
    """
    whole = text if "://" in text else f"http://{text}"
    try:
        parts = urlsplit(whole.lower())  # names have no case; the path is taken from what was given
        path = urlsplit(whole).path.rstrip("/")
        given = parts.port if parts.port is not None or "://" in text else port
        usual = "@" not in parts.netloc and not parts.query and not parts.fragment and not any(map(str.isspace, text))
    except ValueError:
        usual = False
    taken = usual and path[1:] in KEPT  # one could not tell whether a proxy has cut it off
    if not usual or taken or parts.scheme not in STANDARD or not parts.hostname:
        raise UserError(
            f"--allow_host {text}",
            expected="a name, name:port, or the address that browsers show, such as https://hub.test/user/anna/",
            found=f"the path {path}, which the server has itself" if taken else "none of these",
            fix="copy it from the browser's address bar",
        )
    name = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    shown = given is not None and given != STANDARD[parts.scheme]
    return Address(parts.scheme, f"{name}:{given}" if shown else name, path)


class TooLargeError(Exception):
    """A body of more than ``MOST_BYTES``."""


class Guard:
    """Lets through what may pass, as ASGI middleware.

    Args:
        app: What is guarded.
        addresses: Where browsers and other programs find the server: a name with its port, or a whole address.
        tokens: Author by token.
        most_bytes: Of a body.
    """

    def __init__(
        self, app: ASGIApp, addresses: Iterable[str], tokens: Mapping[str, str], most_bytes: int = MOST_BYTES
    ) -> None:
        self.app, self.tokens, self.most_bytes = app, dict(tokens), most_bytes
        ours = [address_of(each) for each in addresses]
        standard = {f"{each.netloc}:{STANDARD[each.scheme]}" for each in ours if _port_of(each.netloc) is None}
        self.hosts = {each.netloc for each in ours} | standard
        self.origins = {each.origin for each in ours}
        self.prefixes = sorted({each.path for each in ours if each.path}, key=len, reverse=True)

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
        if scope["path"] in self.prefixes:  # the page's relative addresses need the slash
            await _redirect(answer, scope["path"].rpartition("/")[2] + "/")
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
            return scope, (403, OTHER_SITE)
        site = headers.get("sec-fetch-site", "none")
        visits = headers.get("sec-fetch-mode") == "navigate" and scope["method"] == "GET"
        scope = self._without_prefix(scope)
        first, _, rest = scope["path"].lstrip("/").partition("/")
        if site not in ("same-origin", "none") and not (visits and first not in KEPT):
            return scope, (403, OTHER_SITE)
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

    def _without_prefix(self, scope: Scope) -> Scope:
        """The request as a proxy would send it that cuts off its own path."""
        for prefix in self.prefixes:
            if scope["path"].startswith(f"{prefix}/"):
                return {**scope, "path": scope["path"][len(prefix) :], "raw_path": None}
        return scope

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


async def _redirect(send: Send, place: str) -> None:
    await send({"type": "http.response.start", "status": 308, "headers": [(b"location", place.encode())]})
    await send({"type": "http.response.body", "body": b""})


def _port_of(netloc: str) -> int | None:
    return urlsplit(f"//{netloc}").port


def local_addresses(port: int, names: Iterable[str] = ()) -> list[str]:
    """Where the server is found: on loopback, and by further names.

    Args:
        port: That the server listens on.
        names: What ``--allow_host`` gave: names, with a port of their own behind a tunnel, or whole addresses.

    Returns:
        The given ones first.

    Raises:
        UserError: As :func:`address_of`.
    """
    return [str(address_of(name, port)) for name in (*names, "127.0.0.1", "localhost", "[::1]")]
