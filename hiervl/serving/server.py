"""Runs the page: one process, one socket, and a folder for uploads that is deleted with the server."""

import contextlib
import ipaddress
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import fastapi
import gradio as gr
import uvicorn

from hiervl.inference.predictor import HierVLPredictor
from hiervl.utils.errors import UserError

from .guard import Guard
from .page import ASSETS, build_page
from .segmenter import PageSegmenter, UploadLimits

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
LEAST_GRADIO = 6
KEPT_UPLOADS = 16  # this many uploads of the largest size are kept on disk, including pictures
MAX_CONNECTIONS = 64
GRACE = 1  # seconds for running requests when the server ends
LAST_PORT = 65535
TERMINATED = 143  # exit status after SIGTERM
FONT = ("system-ui", "sans-serif")  # fonts of the visitor's machine: nothing is downloaded


def build_app(
    segmenter: PageSegmenter, title: str, uploads: Path, hosts: Sequence[str] | None = LOOPBACK_NAMES
) -> Guard:
    """The ASGI application: the page behind its guard.

    Args:
        uploads: an empty folder for uploads and pictures.
        hosts: names by which the server may be addressed; None: any.
    """
    os.environ["GRADIO_TEMP_DIR"] = str(uploads)  # the only way to set Gradio's folder
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    app = gr.mount_gradio_app(
        fastapi.FastAPI(openapi_url=None),
        build_page(segmenter, title, uploads),
        path="/",
        allowed_paths=[],
        max_file_size=segmenter.limits.bytes,
        show_error=False,  # unexpected errors stay in the terminal
        run_history=False,
        footer_links=[],
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        theme=gr.themes.Default(font=FONT, font_mono=("monospace",), primary_hue="blue"),
        css_paths=[ASSETS / "style.css"],
    )
    return Guard(
        app,
        uploads=uploads,
        max_upload=segmenter.limits.bytes,
        max_kept=KEPT_UPLOADS * segmenter.limits.bytes,
        hosts=hosts,
    )


def serve(predictor: HierVLPredictor, title: str, host: str, port: int, limits: UploadLimits) -> None:
    """Serve the page until the process is interrupted.

    Args:
        port: 0 means any free port; the address is printed.

    Raises:
        UserError: Gradio is too old, or the address cannot be used.
    """
    if int(gr.__version__.split(".")[0]) < LEAST_GRADIO:
        raise UserError(f"Gradio {gr.__version__} is too old, {LEAST_GRADIO} is the oldest that serves.")
    with _bound_socket(host, port) as listener, tempfile.TemporaryDirectory(prefix="hiervl_serve_") as folder:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))  # so that the uploads are deleted then, too
        address = listener.getsockname()
        is_loopback = ipaddress.ip_address(address[0].split("%")[0]).is_loopback
        hosts = (*LOOPBACK_NAMES, host.lower()) if is_loopback else None
        app = build_app(PageSegmenter(predictor, limits), title, Path(folder), hosts)
        if not is_loopback:
            print(f"warning: everybody who reaches {host} can use this page, without a password.", file=sys.stderr)
        shown = f"[{host}]" if ":" in host else host
        print(f"{title} is served on http://{shown}:{address[1]} (Ctrl+C ends it).", flush=True)
        server = uvicorn.Server(
            uvicorn.Config(app, log_level="warning", limit_concurrency=MAX_CONNECTIONS, timeout_graceful_shutdown=GRACE)
        )
        with contextlib.suppress(KeyboardInterrupt):
            server.run(sockets=[listener])


def _bound_socket(host: str, port: int) -> socket.socket:
    if not 0 <= port <= LAST_PORT:  # getaddrinfo would take the port modulo 65536
        raise UserError(f"a port is a number from 0 to {LAST_PORT}, not {port}: choose another.")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen()  # from now on, connections wait until the page is ready
        except BaseException:
            listener.close()
            raise
        return listener
    except (OSError, UnicodeError) as error:  # IDNA refuses names with empty or too long parts
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"the page cannot be served on {host}, port {port} ({reason}): choose another.") from None
