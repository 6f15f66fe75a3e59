"""Serves the demo: to this machine only, unless another address is asked for, and without a word to any other."""

from __future__ import annotations

import ipaddress
import os
import socket
import tempfile
from collections.abc import Callable
from importlib import import_module
from typing import Any

from mmcontrast.demo.app import build_app, looks, require_gradio
from mmcontrast.demo.session import Session
from mmcontrast.errors import MMContrastError
from mmcontrast.training.signals import stop_on_signals

MAX_UPLOAD = "32mb"
_OWN_NAMES = ["127.0.0.1", "localhost", "[::1]"]
# The page may load from here only, whatever the library behind it would fetch; and no other page may frame it.
POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; frame-ancestors 'none'; base-uri 'self'; form-action 'self'"
)


def reserve(host: str, port: int) -> socket.socket:
    """A socket on that address: taken before anything is loaded, so that a busy port shows at once.

    Raises:
        MMContrastError: the port is in use, or the address is none of this machine.
    """
    found = None
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        found = socket.socket(family, kind)
        if os.name != "nt":
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
    except OSError as error:
        if found is not None:
            found.close()
        why = error.strerror or str(error)
        raise MMContrastError(
            f"cannot listen on {host}, port {port} ({why}): give another --port; 0 takes a free one"
        ) from None
    return found


def address_of(sock: socket.socket) -> str:
    """URL of the page."""
    host, port = sock.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(session: Session, sock: socket.socket, *, title: str, about: str, ready: Callable[[str], object]) -> None:
    """Serve until Ctrl-C or SIGTERM; what was uploaded is removed then.

    Args:
        session: answers.
        sock: from `reserve`.
        title, about: of the page.
        ready: told the address when the page can be opened.
    """
    gradio, uvicorn = require_gradio(), import_module("uvicorn")
    with tempfile.TemporaryDirectory(prefix="mmcontrast-demo-") as folder, sock:
        os.environ["GRADIO_TEMP_DIR"] = folder
        application = _application(gradio, build_app(session, title, about), sock)
        config = uvicorn.Config(application, log_level="warning", timeout_graceful_shutdown=1, ws="none")
        server = uvicorn.Server(config)
        with stop_on_signals():  # the server raises them again when it is down
            ready(address_of(sock))
            server.run(sockets=[sock])


def _application(gradio: Any, blocks: Any, sock: socket.socket) -> Any:
    host = sock.getsockname()[0]
    application = import_module("fastapi").FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    application.add_middleware(_WithPolicy)
    if ipaddress.ip_address(host).is_loopback:
        # A page elsewhere could have its own name point to this machine, and read what is here.
        hosts = import_module("starlette.middleware.trustedhost")
        application.add_middleware(hosts.TrustedHostMiddleware, allowed_hosts=[*_OWN_NAMES, host])
    return gradio.mount_gradio_app(
        application,
        blocks,
        path="/",
        allowed_paths=[],
        max_file_size=MAX_UPLOAD,
        show_error=True,
        ssr_mode=False,
        enable_monitoring=False,
        run_history=False,
        **looks(gradio),
    )


class _WithPolicy:
    """Adds POLICY to every answer."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def send_with(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"content-security-policy", POLICY.encode())]
            await send(message)

        await self.app(scope, receive, send_with if scope["type"] == "http" else send)
