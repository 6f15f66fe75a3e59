"""The demo, from names of a model and of a folder."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmcontrast.build.searching import open_search
from mmcontrast.data import PairSource
from mmcontrast.demo.app import require_gradio
from mmcontrast.demo.server import reserve, serve
from mmcontrast.demo.session import Session
from mmcontrast.models import DualEncoder


@dataclass(frozen=True)
class Demo:
    """A page that is ready to be served.

    Attributes:
        session: answers without a page.
        title, about: what stands on top.
    """

    session: Session
    title: str
    about: str
    socket: socket.socket

    def serve(self, ready: Callable[[str], object]) -> None:
        """Serve until Ctrl-C; `ready` is told the address."""
        serve(self.session, self.socket, title=self.title, about=self.about, ready=ready)


def open_demo(
    model: DualEncoder | str | Path,
    data: PairSource | str | Path,
    *,
    host: str = "127.0.0.1",
    port: int = 7860,
    **options: Any,
) -> Demo:
    """Bring the index of a folder up to date and make a page to search it in the browser.

    Args:
        model: a model, its folder, or its Hub name.
        data: as for `open_search`.
        host: address to listen on; the default can be reached from this machine only.
        port: 0 takes a free one.
        options: further ones of `open_search`.

    Raises:
        MMContrastError: gradio is not installed, or the port is in use; this shows before anything is loaded.
        DataError: as `open_search`.
    """
    require_gradio()
    sock = reserve(host, port)
    try:
        searcher = open_search(model, data, **options)
    except BaseException:
        sock.close()
        raise
    where = data if isinstance(data, str | Path) else data.name
    title = Path(where).expanduser().name or str(where)
    name = "/".join(Path(model).parts[-2:]) if isinstance(model, str | Path) else type(model).__name__
    return Demo(Session(searcher), title, f"{len(searcher):,} pictures · model {name}", sock)
