"""Serves twin games to browsers: one page, with one web socket and one game for each tab.

The browser sends small JSON messages:

    {"type": "keys", "keys": ["UP", "FIRE"]}      all keys that are held down now
    {"type": "pause" | "single" | "resync" | "new" | "switch" | "save" | "planner"}

The server sends JSON messages of type "hello", "saved" and "error", and the screens as binary
messages. A binary message holds the length of a JSON header (4 bytes, big-endian), the header, of
type "frame", the imagined screen and the real one. Screens are uint8 (height, width, channels).

The server accepts only this machine. It refuses requests that name another host or come from
another site's page, because such a page could play along otherwise.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from aiohttp import WSCloseCode, web

from utils.acting.port import HOST
from utils.acting.session import Resources, Session
from utils.acting.twin_game import WorldModel

WEB = Path(__file__).parent / "web"
MAX_SESSIONS = 8  # browser tabs at once
MAX_MESSAGE = 4096  # bytes
HEARTBEAT = 10.0  # seconds; a client that does not answer within half of it is dropped


async def serve(
    models: list[WorldModel],
    listener: socket.socket,
    fps: float,
    recordings: Path,
    on_ready: Callable[[str], None],
) -> None:
    """Serves until it is cancelled.

    Args:
        models: see `TwinGame`.
        listener: from `utils.acting.port.listen`; closed at the end.
        fps: steps a second.
        recordings: directory of the saved videos.
        on_ready: called with the address as soon as pages are served.
    """
    server = Server(models, fps, recordings)
    app = web.Application(middlewares=[server.refuse_strangers])
    app.router.add_get("/", server.page)
    app.router.add_get("/socket", server.socket)
    app.router.add_static("/", WEB)
    app.on_shutdown.append(server.close)
    runner = web.AppRunner(app, shutdown_timeout=2.0)
    await runner.setup()
    try:
        site = web.SockSite(runner, listener)
        await site.start()
        server.port = runner.addresses[0][1]
        on_ready(f"http://{HOST}:{server.port}")
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()


class Server:
    """The handlers of the requests.

    Args:
        models, fps, recordings: see `serve`.

    Attributes:
        port: the port of 127.0.0.1 that is served.
    """

    def __init__(self, models: list[WorldModel], fps: float, recordings: Path):
        self.port: int | None = None
        self._threads = ThreadPoolExecutor(1, "models"), ThreadPoolExecutor(1, "videos")
        self._resources = Resources(models, fps, recordings, *self._threads)
        self._sessions: set[Session] = set()
        self._num_begun = 0  # sessions; each has its own seed

    @web.middleware
    async def refuse_strangers(self, request, handler):
        """Answers only what a browser requests of this machine for the served page.

        The port may be another one than is served, because it may be forwarded (`ssh -L`). No name
        but this machine's is accepted, and no page but the one that was served from there.
        """
        name = request.host.rpartition(":")[0] if ":" in request.host else request.host
        origin = request.headers.get("Origin")
        if name not in (HOST, "localhost") or origin not in (None, f"http://{request.host}"):
            raise web.HTTPForbidden(text=f"only pages of http://{HOST}:{self.port} are served")
        return await handler(request)

    async def page(self, request: web.Request) -> web.FileResponse:
        """The page."""
        return web.FileResponse(WEB / "index.html")

    async def socket(self, request: web.Request) -> web.WebSocketResponse:
        """The web socket of a tab, open for as long as the tab plays."""
        # Not compressed, because the cores that imagine would spend time on it for nothing: the
        # messages never leave this machine.
        socket = web.WebSocketResponse(
            heartbeat=HEARTBEAT, max_msg_size=MAX_MESSAGE, compress=False
        )
        await socket.prepare(request)
        if len(self._sessions) >= MAX_SESSIONS:
            message = f"{MAX_SESSIONS} tabs are playing already: close one and reload"
            await socket.send_json({"type": "error", "message": message})
            await socket.close(code=WSCloseCode.TRY_AGAIN_LATER)
            return socket
        session = Session(self._resources, socket, self._num_begun)
        self._num_begun += 1
        self._sessions.add(session)
        try:
            await session.play()
        finally:
            self._sessions.discard(session)
        return socket

    async def close(self, app: web.Application) -> None:
        """Ends all sessions and threads."""
        for session in set(self._sessions):
            await session.socket.close(code=WSCloseCode.GOING_AWAY)
        for thread in self._threads:
            thread.shutdown(cancel_futures=True)
