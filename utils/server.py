"""Serves a twin game to browsers: one page, one web socket and one game for each tab.

The browser sends small JSON messages:

    {"type": "keys", "keys": ["UP", "FIRE"]}      what is held down
    {"type": "pause" | "single" | "resync" | "new" | "switch" | "save"}

and is sent JSON messages of type "hello", "saved" and "error", and the screens as binary ones: the
length of a JSON header (4 bytes, big-endian), that header, of type "frame", the imagined screen and
the real one, uint8 each.

Only the machine itself is served: requests that name another host or come from another origin's
page are refused, so that no web site can play along.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from aiohttp import WSCloseCode, WSMsgType, web

from systems.errors import InputError
from systems.twin_game import Imaginer, TwinGame, action_of_keys
from utils import video

HOST = "127.0.0.1"
WEB = Path(__file__).parent / "web"
MAX_GAMES = 8  # browser tabs at once
MAX_MESSAGE = 4096  # bytes
KEYS = frozenset({"UP", "DOWN", "LEFT", "RIGHT", "FIRE"})
COMMANDS = ("pause", "single", "resync", "new", "switch", "save")
RECORDED_SECONDS = 30
HEARTBEAT = 10.0  # seconds; a client that does not answer it in half that time is dropped


def listen(port: int) -> socket.socket:
    """Takes a port of 127.0.0.1; 0 takes a free one.

    Raises:
        OSError, OverflowError: there is no such port to be had.
    """
    return socket.create_server((HOST, port))


def serve(
    imaginers: list[Imaginer], listener: socket.socket, fps: float, recordings: Path, started
) -> None:
    """Serves until Ctrl-C.

    Args:
        imaginers: the checkpoints to play in, see `TwinGame`.
        listener: what `listen` returned; closed at the end.
        fps: steps a second.
        recordings: directory of the saved videos.
        started: called with the address once pages are served.
    """
    asyncio.run(_serve(imaginers, listener, fps, recordings, started))


async def _serve(imaginers, listener, fps, recordings, started):
    server = _Server(imaginers, fps, recordings)
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
        started(f"http://{HOST}:{server.port}")
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()


class _Server:
    def __init__(self, imaginers, fps, recordings):
        self.imaginers, self.fps, self.recordings = imaginers, fps, recordings
        self.port = None
        self.games = set()
        self.number = 0  # of games begun: each has its own seed
        # All models' work in one thread: the products use all cores as it is.
        self.models = ThreadPoolExecutor(1, "models")
        self.videos = ThreadPoolExecutor(1, "videos")

    @web.middleware
    async def refuse_strangers(self, request, handler):
        """Lets through what the machine's own browser asks for its own page."""
        hosts = {f"{name}:{self.port}" for name in (HOST, "localhost")}
        if self.port == 80:  # which browsers leave out
            hosts |= {HOST, "localhost"}
        origin = request.headers.get("Origin")
        if request.host not in hosts or origin not in {None, *(f"http://{h}" for h in hosts)}:
            raise web.HTTPForbidden(text=f"only pages of http://{HOST}:{self.port} are served")
        return await handler(request)

    async def page(self, request):
        return web.FileResponse(WEB / "index.html")

    async def socket(self, request):
        socket = web.WebSocketResponse(heartbeat=HEARTBEAT, max_msg_size=MAX_MESSAGE)
        await socket.prepare(request)
        if len(self.games) >= MAX_GAMES:
            message = f"{MAX_GAMES} games are being played already: close one and reload"
            await socket.send_json({"type": "error", "message": message})
            await socket.close(code=WSCloseCode.TRY_AGAIN_LATER)
            return socket
        game = _Game(self, socket, self.number)
        self.number += 1
        self.games.add(game)
        try:
            await game.play()
        finally:
            self.games.discard(game)
        return socket

    async def close(self, app):
        for game in set(self.games):
            await game.socket.close(code=WSCloseCode.GOING_AWAY)
        self.models.shutdown(cancel_futures=True)
        self.videos.shutdown(cancel_futures=True)


class _Game:
    """One tab's game."""

    def __init__(self, server, socket, number):
        self.server, self.socket, self.number = server, socket, number
        self.keys = set()
        self.going = asyncio.Event()  # not set while paused
        self.going.set()
        self.turn = asyncio.Lock()  # between the steps and the commands
        self.recorded = deque(maxlen=round(RECORDED_SECONDS * server.fps))
        self.saving = None
        self.fps = None  # steps a second of late

    async def play(self):
        try:
            self.twin = await self._work(TwinGame, self.server.imaginers, self.number)
            await self._greet()
            # What goes wrong in one of the two ends the other, and with it this game alone.
            async with asyncio.TaskGroup() as tasks:
                stepping = tasks.create_task(self._go_on())
                await self._listen()
                stepping.cancel()
        except* ConnectionError:
            pass  # the client has vanished while it was being sent something

    async def _greet(self):
        imaginers = self.server.imaginers
        await self.socket.send_json(
            {
                "type": "hello",
                "game": imaginers[0].config["game"],
                "shape": imaginers[0].shape,
                "actions": self.twin.meanings,
                "variants": len(imaginers),
                "fps": self.server.fps,
            }
        )

    async def _listen(self):
        async for message in self.socket:
            try:
                if message.type != WSMsgType.TEXT:
                    raise ValueError("expected text, received bytes")
                await self._obey(message.data)
            except ValueError as error:
                await self.socket.send_json({"type": "error", "message": str(error)})

    async def _work(self, function, *args):
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.server.models, function, *args)

    async def _go_on(self):
        """A step each 1 / fps seconds, for as long as the client keeps up."""
        loop, period = asyncio.get_running_loop(), 1 / self.server.fps
        await self._show()
        due = last = loop.time()
        while not self.socket.closed:
            if not self.going.is_set():
                self.fps = None
                await self.going.wait()
                due = last = loop.time()
            async with self.turn:
                await self._step()
            due += period
            await asyncio.sleep(max(0.0, due - loop.time()))
            now = loop.time()
            rate = 1 / max(now - last, 1e-6)
            self.fps = rate if self.fps is None else 0.9 * self.fps + 0.1 * rate
            last = now
            # Time lost is lost: it is not made up for by a rush.
            due = max(due, now - period)

    async def _step(self):
        twin = self.twin
        action = None
        if twin.over:
            self.going.clear()
        else:
            action = action_of_keys(self.keys, twin.meanings)
            await self._work(twin.step, action)
            self.recorded.append(
                (twin.real, twin.imagined, f"step {twin.steps}  {twin.meanings[action]}")
            )
        await self._show(action)

    async def _show(self, action=None):
        twin = self.twin
        header = {
            "type": "frame",
            "step": twin.steps,
            "action": None if action is None else twin.meanings[action],
            "reward": twin.reward,
            "predicted_reward": twin.predicted_reward if twin.tells_rewards else None,
            "earned": twin.earned,
            "predicted": twin.predicted if twin.tells_rewards else None,
            "termination": twin.termination if twin.tells_rewards else None,
            "error": twin.error,
            "error_repeat_last": twin.error_repeat_last,
            "variant": twin.variant,
            "over": twin.over,
            "paused": not self.going.is_set(),
            "fps": self.fps,
        }
        encoded = json.dumps(header).encode()
        screens = twin.imagined.tobytes() + twin.real.tobytes()
        await self.socket.send_bytes(len(encoded).to_bytes(4, "big") + encoded + screens)

    async def _obey(self, text):
        """Does what a message asks for.

        Raises:
            ValueError: it is none of those that there are.
        """
        try:
            message = json.loads(text)
            kind = message["type"]
        except (ValueError, TypeError, KeyError, RecursionError):
            raise ValueError('expected a JSON object with a "type"') from None
        if kind == "keys":
            keys = message.get("keys")
            if not isinstance(keys, list) or not all(key in KEYS for key in map(str, keys)):
                raise ValueError(f"expected keys out of {', '.join(sorted(KEYS))}")
            self.keys = set(map(str, keys))
        elif kind in COMMANDS:
            async with self.turn:
                await getattr(self, f"_{kind}")()
        else:
            raise ValueError(f"expected a type out of keys, {', '.join(COMMANDS)}")

    async def _pause(self):
        if self.going.is_set():
            self.going.clear()
            await self._show()
        elif not self.twin.over:
            self.going.set()

    async def _single(self):
        self.going.clear()
        await self._step()

    async def _resync(self):
        await self._work(self.twin.resynchronise)
        await self._show()

    async def _new(self):
        await self._work(self.twin.restart)
        self.recorded.clear()
        self.going.set()
        await self._show()

    async def _switch(self):
        await self._work(self.twin.switch)
        await self._show()

    async def _save(self):
        if self.saving and not self.saving.done():
            raise ValueError("still saving: wait for it")
        if not self.recorded:
            raise ValueError("nothing to save yet")
        self.saving = asyncio.create_task(self._write(list(self.recorded)))

    async def _write(self, recorded):
        loop, server = asyncio.get_running_loop(), self.server
        try:
            paths = await loop.run_in_executor(
                server.videos,
                write_recording,
                recorded,
                server.recordings,
                server.imaginers[0].config["game"],
                server.fps,
            )
            answer = {"type": "saved", "files": [str(path) for path in paths]}
        except (OSError, InputError) as error:
            answer = {"type": "error", "message": f"could not save: {error}"}
        with contextlib.suppress(ConnectionError):  # the client may have gone away meanwhile
            await self.socket.send_json(answer)


def write_recording(recorded: list, directory: Path, game: str, fps: float) -> list[Path]:
    """Writes (real, imagined, caption) of each step as mp4 and gif; returns their names."""
    directory.mkdir(parents=True, exist_ok=True)
    real, imagined, captions = zip(*recorded, strict=True)
    panels = video.compare(np.stack(real), np.stack(imagined))
    scale = 3 if real[0].shape[0] < 100 else 2
    frames = video.side_by_side(panels, captions, scale)
    name = f"{game}-{time.strftime('%Y%m%d-%H%M%S')}-{time.time_ns() % 1000:03d}"
    paths = [directory / f"{name}{suffix}" for suffix in video.FORMATS]
    for path in paths:
        video.write_video(path, frames, max(1, round(fps)))
    return paths
