"""A guard before Gradio: it passes requests that the page needs and refuses all others.

Gradio has many routes that this page does not use; some fetch any address for the visitor. A list of allowed requests
stays right when a later version adds routes.
"""

import json
import os
import re
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

Scope = MutableMapping
Receive = Callable[[], Awaitable[MutableMapping]]
Send = Callable[[MutableMapping], Awaitable[None]]

FILE_ROUTE = "/gradio_api/file="
UPLOAD_ROUTE = "/gradio_api/upload"
NAME = r"\w[\w.-]*"  # neither .. nor empty
ALLOWED = {
    "GET": re.compile(
        rf"/|/config|/theme\.css|/manifest\.json|/favicon\.ico|/pwa_icon(/\d+)?|/(assets|static)/({NAME}/)*{NAME}"
        rf"|/gradio_api/(info|startup-events|upload_progress|queue/data|heartbeat/{NAME}|file=.+)"
    ),
    "POST": re.compile(r"/gradio_api/(upload|queue/join|cancel|reset)/?"),
}
MAX_JSON = 2 * 2**20  # bytes; the table of classes is much smaller
MULTIPART_ROOM = 64 * 2**10  # bytes of an upload besides the image
# Nothing may be loaded from, sent to or framed by another site. Gradio's page needs inline scripts and eval.
POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)
HEADERS = [
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
]


class TooLarge(Exception):
    """The body of a request has too many bytes."""


class Guard:
    """An ASGI application that wraps another one."""

    def __init__(self, app, *, uploads: Path, max_upload: int, max_kept: int, hosts: Sequence[str] | None):
        """
        Args:
            app: the guarded application.
            uploads: the only folder whose files can be fetched.
            max_upload: bytes of an uploaded file.
            max_kept: largest number of bytes of all files in the folder; the oldest are deleted.
            hosts: names by which the server may be addressed; None: any. This stops other sites from reaching it
                through a name of theirs that points here (DNS rebinding).
        """
        self.app = app
        self.uploads = uploads.resolve()
        self.max_upload = max_upload
        self.max_kept = max_kept
        self.hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":  # the page needs no websockets
            return await send({"type": "websocket.close", "code": 1008})
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        refusal = self._refusal(scope, headers)
        if refusal is not None:
            return await _answer(send, *refusal)
        is_upload = scope["path"].startswith(UPLOAD_ROUTE)
        limit = self.max_upload + MULTIPART_ROOM if is_upload else MAX_JSON
        started = False

        async def send_with_headers(message: MutableMapping) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message = {**message, "headers": [*message.get("headers", []), *HEADERS]}
            await send(message)

        try:
            receive = _bounded(receive, headers.get(b"content-length", "0"), limit)
            if scope["method"] == "POST":
                make_room(self.uploads, self.max_kept)
                if not is_upload:
                    body = await _read(receive)
                    if not names_only_files_below(body, self.uploads):
                        return await _answer(send, 403, "Only what was uploaded is segmented: drop the image again.")
                    receive = _replayed(body, receive)
            await self.app(scope, receive, send_with_headers)
        except TooLarge:
            if not started:
                await _answer(send, 413, f"A request may have at most {limit} bytes.")

    def _refusal(self, scope: Scope, headers: dict[bytes, str]) -> tuple[int, str] | None:
        """Status and message for a refused request."""
        host = headers.get(b"host", "")
        if self.hosts is not None and _host_name(f"//{host}") not in self.hosts:
            return 403, "This server answers only under its own name."
        method, path = scope["method"], scope["path"]
        allowed = ALLOWED.get("GET" if method == "HEAD" else method)
        if allowed is None or not allowed.fullmatch(path):
            return 404, "There is nothing here."
        if path.startswith(FILE_ROUTE) and not is_file_below(path[len(FILE_ROUTE) :], self.uploads):
            return 403, "This file is not for you."
        origin = headers.get(b"origin")
        if method == "POST" and origin is not None and urlsplit(origin).netloc != host:
            return 403, "Another page may not use this server."
        return None


def is_file_below(path: str, folder: Path) -> bool:
    """Whether ``path``, made absolute and with all links followed, is a file in ``folder`` (already resolved)."""
    if not os.path.isabs(path) or "\0" in path:
        return False
    real = Path(os.path.realpath(path))
    return folder in real.parents and real.is_file()


def names_only_files_below(body: bytes, folder: Path) -> bool:
    """Whether ``body`` is JSON in which every ``path`` is a file in ``folder``.

    Otherwise Gradio would fetch any address that a message calls a file.
    """
    try:
        waiting = [json.loads(body)]
    except (ValueError, RecursionError):
        return False
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting.extend(value)
        elif isinstance(value, dict):
            waiting.extend(value.values())
            if "path" in value and not (isinstance(value["path"], str) and is_file_below(value["path"], folder)):
                return False
    return True


def make_room(folder: Path, most: int) -> None:
    """Delete the oldest files below ``folder`` until all together have at most ``most`` bytes."""
    files: list[tuple[float, int, Path]] = []
    for path in folder.rglob("*"):
        try:
            if path.is_file():
                status = path.stat()
                files.append((status.st_mtime, status.st_size, path))
        except OSError:  # Gradio has just moved it
            continue
    total = sum(size for _, size, _ in files)
    for _, size, path in sorted(files):
        if total <= most:
            return
        path.unlink(missing_ok=True)
        total -= size


def _host_name(address: str) -> str | None:
    try:
        return urlsplit(address).hostname
    except ValueError:
        return None


async def _read(receive: Receive) -> bytes:
    parts, more = [], True
    while more:
        message = await receive()
        parts.append(message.get("body", b""))
        more = message.get("more_body", False)
    return b"".join(parts)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """``receive`` as if ``body`` had not been read."""
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again() -> MutableMapping:
        return messages.pop() if messages else await receive()

    return receive_again


def _bounded(receive: Receive, announced: str, limit: int) -> Receive:
    """``receive`` for a body of at most ``limit`` bytes, whatever length was announced.

    Raises:
        TooLarge: at once if more is announced, else while receiving.
    """
    if not announced.isdigit() or int(announced) > limit:
        raise TooLarge
    received = 0

    async def receive_bounded() -> MutableMapping:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > limit:
            raise TooLarge
        return message

    return receive_bounded


async def _answer(send: Send, status: int, sentence: str) -> None:
    headers = [(b"content-type", b"application/json"), (b"connection", b"close"), *HEADERS]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps({"detail": sentence}).encode()})
