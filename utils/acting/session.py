"""One browser tab's game: steps it, draws it in the page and obeys the page.

`utils.acting.server` describes the messages.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Set
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path

from aiohttp import WSMsgType, web

from systems.errors import InputError
from systems.files import finite
from utils.acting.live_planner import LivePlanner
from utils.acting.recorder import Recorder, write_recording
from utils.acting.twin_game import TwinGame, WorldModel, action_of_keys

_OPPOSITES = {"UP": "DOWN", "DOWN": "UP", "LEFT": "RIGHT", "RIGHT": "LEFT"}
PLANNING_SHARE = 0.6  # of a step's time
KEYS = frozenset({*_OPPOSITES, "FIRE", *"0123456789"})


@dataclass(frozen=True)
class Resources:
    """What all sessions of a server share."""

    models: list[WorldModel]
    fps: float  # steps a second
    recordings: Path  # directory of the saved videos
    # One thread runs all models, because a model's products already use all cores.
    model_thread: Executor
    video_thread: Executor


class Keyboard:
    """Tells which keys count in the next step: those held down, and those tapped in between."""

    def __init__(self):
        self._held, self._pressed = frozenset(), frozenset()

    def hold(self, keys: Set[str]) -> None:
        """Takes the keys that are held down from now on."""
        self._pressed |= keys - self._held
        self._held = frozenset(keys)

    def take(self) -> frozenset[str]:
        """Returns the keys of the next step and forgets the taps.

        A tapped key counts instead of the opposite one that is held.
        """
        tapped = self._pressed - self._held
        self._pressed = frozenset()
        return tapped | {key for key in self._held if _OPPOSITES.get(key) not in tapped}


class Session:
    """The game of one browser tab.

    Args:
        resources: shared with the other sessions.
        socket: to the tab, prepared.
        seed: of the game's starts.

    Attributes:
        socket: as given.
    """

    def __init__(self, resources: Resources, socket: web.WebSocketResponse, seed: int):
        self.socket = socket
        self._resources, self._seed = resources, seed
        self._recorder = Recorder(resources.models[0].frame_shape, resources.fps)
        self._keyboard = Keyboard()
        self._running = asyncio.Event()  # not set while paused
        self._running.set()
        self._lock = asyncio.Lock()  # held during a step and during a command
        self._saving = None
        self._measured_fps = None
        self._planner: LivePlanner | None = None  # it has the keys while there is one
        self._commands = {
            "planner": self._switch_planner,
            "pause": self._pause,
            "single": self._step_once,
            "resync": self._resynchronise,
            "new": self._restart,
            "switch": self._switch,
            "save": self._save,
        }

    async def play(self) -> None:
        """Plays until the tab closes the socket or the connection breaks."""
        try:
            self._twin = await self._in_model_thread(TwinGame, self._resources.models, self._seed)
            await self._greet()
            # An error in one of the two tasks ends the other, and only this session with it.
            async with asyncio.TaskGroup() as tasks:
                stepping = tasks.create_task(self._keep_stepping())
                await self._listen()
                stepping.cancel()
        except* ConnectionError:
            pass  # the client vanished while a message was on its way

    async def _greet(self):
        model = self._resources.models[0]
        await self.socket.send_json(
            {
                "type": "hello",
                "game": model.checkpoint.config.game,
                "shape": model.frame_shape,
                "actions": self._twin.action_meanings,
                "variants": len(self._resources.models),
                "fps": self._resources.fps,
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

    async def _in_model_thread(self, function, *args):
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._resources.model_thread, function, *args)

    async def _keep_stepping(self):
        """Steps each 1 / fps seconds, for as long as the client keeps up."""
        loop, period = asyncio.get_running_loop(), 1 / self._resources.fps
        await self._show()
        due = last = loop.time()
        while not self.socket.closed:
            if not self._running.is_set():
                self._measured_fps = None
                await self._running.wait()
                due = last = loop.time()
            async with self._lock:
                await self._step()
            due += period
            await asyncio.sleep(max(0.0, due - loop.time()))
            now = loop.time()
            rate = 1 / max(now - last, 1e-6)
            mean = self._measured_fps
            self._measured_fps = rate if mean is None else 0.9 * mean + 0.1 * rate
            last = now
            # A delay is not made up for, because the game would rush then.
            due = max(due, now - period)

    async def _step(self):
        if self._twin.over:
            self._running.clear()
            await self._show()
            return
        action = action_of_keys(self._keyboard.take(), self._twin.action_meanings)
        action = await self._in_model_thread(self._step_and_record, action)
        await self._show(action)

    def _step_and_record(self, action):
        """Takes a step, by the planner's action if there is one; returns the action."""
        twin = self._twin
        if self._planner:
            action = twin.planned_action(self._planner)
        twin.step(action)
        caption = f"step {twin.steps}  {twin.action_meanings[action]}"
        self._recorder.append(twin.real, twin.imagined, caption)
        return action

    async def _show(self, action=None):
        twin = self._twin
        learned = twin.predicts_rewards
        header = {
            "type": "frame",
            "step": twin.steps,
            "action": None if action is None else twin.action_meanings[action],
            "reward": twin.reward,
            "predicted_reward": twin.predicted_reward if learned else None,
            "total_reward": twin.total_reward,
            "total_predicted_reward": twin.total_predicted_reward if learned else None,
            "termination": twin.termination if learned else None,
            "error": twin.error,
            "error_repeat_last": twin.error_repeat_last,
            "variant": twin.variant,
            "planner": self._planner is not None,
            "over": twin.over,
            "paused": not self._running.is_set(),
            "fps": self._measured_fps,
        }
        # A diverged model predicts NaN, which JSON does not have.
        encoded = json.dumps(finite(header), allow_nan=False).encode()
        screens = twin.imagined.tobytes() + twin.real.tobytes()
        await self.socket.send_bytes(len(encoded).to_bytes(4, "big") + encoded + screens)

    async def _obey(self, text):
        """Does what a message asks for.

        Raises:
            ValueError: the message is not one of the protocol's.
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
            self._keyboard.hold(set(map(str, keys)))
        elif isinstance(kind, str) and kind in self._commands:
            async with self._lock:
                await self._commands[kind]()
        else:
            raise ValueError(f"expected a type out of keys, {', '.join(self._commands)}")

    async def _pause(self):
        if self._running.is_set():
            self._running.clear()
            await self._show()
        elif not self._twin.over:
            self._running.set()

    async def _step_once(self):
        self._running.clear()
        await self._step()

    async def _switch_planner(self):
        if self._planner:
            self._planner = None
        elif self._twin.predicts_rewards:
            seconds = PLANNING_SHARE / self._resources.fps
            actions = len(self._twin.action_meanings)
            self._planner = LivePlanner(actions, self._seed, seconds)
        else:
            raise ValueError(
                "no planner: this stage has not learned to predict rewards, by which it would plan"
            )
        await self._show()

    async def _resynchronise(self):
        await self._in_model_thread(self._twin.resynchronise)
        self._forget_plans()
        await self._show()

    async def _restart(self):
        await self._in_model_thread(self._twin.restart)
        self._recorder.clear()
        self._keyboard.take()  # taps meant the game before
        self._forget_plans()
        self._running.set()
        await self._show()

    async def _switch(self):
        await self._in_model_thread(self._twin.switch)
        self._forget_plans()
        await self._show()

    def _forget_plans(self):
        """Plans were made for another imagined game, which may be of a model without rewards."""
        if self._planner and not self._twin.predicts_rewards:
            self._planner = None
        if self._planner:
            self._planner.forget()

    async def _save(self):
        if self._saving and not self._saving.done():
            raise ValueError("still saving: wait for it")
        steps = self._recorder.steps()
        if not steps:
            raise ValueError("nothing to save yet")
        self._saving = asyncio.create_task(self._write(steps))

    async def _write(self, steps):
        loop, resources = asyncio.get_running_loop(), self._resources
        model = resources.models[0]
        try:
            paths = await loop.run_in_executor(
                resources.video_thread,
                write_recording,
                steps,
                model.frame_shape,
                resources.recordings,
                model.checkpoint.config.game,
                resources.fps,
            )
            answer = {"type": "saved", "files": [str(path) for path in paths]}
        except (OSError, InputError) as error:
            answer = {"type": "error", "message": f"could not save: {error}"}
        with contextlib.suppress(ConnectionError):  # the client may have gone away meanwhile
            await self.socket.send_json(answer)
