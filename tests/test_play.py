"""Playing in the model: the twin game, the server's protocol, the page in a real browser.

The README's screenshot is made by the test of the page, with a trained checkpoint:

    PLAY_CHECKPOINT=DIR PLAY_SCREENSHOT=docs/play.png pytest tests/test_play.py -k page
"""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import aiohttp
import av
import keras
import numpy as np
import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from PIL import Image

import play
from model.predictor import FramePredictor
from systems.atari import AtariGame
from systems.errors import InputError
from systems.twin_game import Imaginer, TwinGame, action_of_keys
from utils import checkpoints, server

from . import tiny  # noqa: F401 - makes the preset "tiny" known
from .interrupts import heed_interrupts

SHAPE = (12, 12, 1)
MS_PACMAN = AtariGame("ms_pacman").action_meanings


def make_checkpoint(directory, variant, model="tiny", game="ms_pacman"):
    keras.utils.set_random_seed(0)
    meanings = list(AtariGame(game).action_meanings)
    predictor = FramePredictor(model, variant, len(meanings))
    predictor.network.adapt(np.full(predictor.preset.frame_shape, 90.0), 40.0)
    directory.mkdir()
    checkpoints.save_weights(predictor.network, directory)
    config = {
        "model": model,
        "variant": variant,
        "game": game,
        "stage": "test",
        "action_meanings": meanings,
        "warmup": 10,
        "training": {"reward_weight": 0.02},
    }
    (directory / "config.json").write_text(json.dumps(config))
    return directory


@pytest.fixture(scope="module")
def imaginers(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoints")
    return [Imaginer(make_checkpoint(path / v, v)) for v in ("compression", "paper")]


@pytest.mark.parametrize(
    ("keys", "meanings", "expected"),
    [
        ([], MS_PACMAN, "NOOP"),
        (["UP"], MS_PACMAN, "UP"),
        (["UP", "LEFT"], MS_PACMAN, "UPLEFT"),
        (["UP", "DOWN", "LEFT"], MS_PACMAN, "LEFT"),
        (["FIRE", "LEFT"], MS_PACMAN, "LEFT"),
        (["UP", "LEFT"], ("NOOP", "UP", "DOWN"), "UP"),
        (["LEFT"], ("NOOP", "UP", "DOWN"), "NOOP"),
        (["FIRE", "RIGHT"], ("NOOP", "FIRE", "RIGHT", "RIGHTFIRE"), "RIGHTFIRE"),
        (["FIRE", "UP", "RIGHT"], ("NOOP", "FIRE", "RIGHT", "RIGHTFIRE"), "RIGHTFIRE"),
        (["FIRE"], ("NOOP", "UP"), "NOOP"),
    ],
)
def test_keys_become_the_nearest_action(keys, meanings, expected):
    assert meanings[action_of_keys(set(keys), meanings)] == expected


def test_twins_start_alike_and_the_real_one_is_the_emulators(imaginers):
    twin = TwinGame(imaginers, seed=3)
    assert twin.error == 0 and twin.steps == 0
    other = TwinGame(imaginers, seed=3)
    for action in [1, 2, 3, 4, 4, 4]:
        twin.step(action)
        other.step(action)
    np.testing.assert_array_equal(twin.real, other.real)
    np.testing.assert_array_equal(twin.imagined, other.imagined)
    assert twin.steps == 6 and twin.error > 0
    assert twin.predicted == other.predicted != 0
    twin.resynchronise()
    assert twin.error == twin.error_repeat_last == 0 and twin.steps == 0
    np.testing.assert_array_equal(twin.real, other.real)
    assert twin.variant == "compression"
    twin.switch()
    assert twin.variant == "paper"
    other.resynchronise()
    for action in [0, 1, 2]:  # the first step is the same: it comes from real frames
        twin.step(action)
        other.step(action)
    assert not np.array_equal(twin.imagined, other.imagined)
    np.testing.assert_array_equal(twin.real, other.real)


def test_what_is_not_learned_is_not_told_and_other_games_actions_are_refused(
    tmp_path, monkeypatch, capsys
):
    path = make_checkpoint(tmp_path / "seq_5", "compression")
    config = json.loads((path / "config.json").read_text())
    config["training"]["reward_weight"] = 0.0
    config["action_meanings"] = [str(number) for number in range(len(MS_PACMAN))]
    (path / "config.json").write_text(json.dumps(config))
    twin = TwinGame([Imaginer(path)])
    assert not twin.tells_rewards
    assert twin.meanings == MS_PACMAN  # data without names is of the game's own actions
    config["action_meanings"] = list(MS_PACMAN[::-1])
    (path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="actions of ms_pacman"):
        TwinGame([Imaginer(path)])
    # The script says so before anybody connects.
    monkeypatch.setattr(sys, "argv", ["play.py", f"--checkpoint={path}", "--port=0"])
    with pytest.raises(SystemExit) as error:
        play.main()
    assert error.value.code == 2
    assert "actions of ms_pacman" in capsys.readouterr().err


def test_a_game_that_is_over_stands_still(imaginers):
    twin = TwinGame(imaginers, seed=0)
    while not twin.over:
        twin._game.step(2)
    steps = twin.steps
    twin.step(0)
    assert twin.steps == steps
    twin.restart()
    assert not twin.over and twin.earned == 0


def test_a_game_that_is_short_is_begun_before_its_end(tmp_path):
    # Played at random, 20 of 25 first drawn starts are after the end of this one.
    game = make_checkpoint(tmp_path / "short", "compression", game="laser_gates")
    twins = [TwinGame([Imaginer(game)], seed) for seed in range(5)]
    assert not any(twin.over for twin in twins)


def test_the_real_game_is_played_as_the_models_data_was(tmp_path):
    directory = make_checkpoint(tmp_path / "every_frame", "compression")
    assert TwinGame([Imaginer(directory)])._game.frame_skip == 4
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "frame_skip": 1}))
    assert TwinGame([Imaginer(directory)])._game.frame_skip == 1


def test_checkpoints_of_two_games_are_refused(imaginers, tmp_path):
    freeway = Imaginer(make_checkpoint(tmp_path / "freeway", "paper", game="freeway"))
    with pytest.raises(InputError, match="the same game, received ms_pacman and freeway"):
        checkpoints.check_alike([imaginers[0].config, freeway.config])


@contextlib.contextmanager
def serving(imaginers, recordings, fps=30.0):
    """The address of a server in a thread of its own."""
    ready, found = threading.Event(), {}

    async def run():
        def started(address):
            found["address"] = address
            ready.set()

        found["loop"], found["task"] = asyncio.get_running_loop(), asyncio.current_task()
        await server._serve(imaginers, server.listen(0), fps, recordings, started)

    def target():
        with contextlib.suppress(asyncio.CancelledError):
            asyncio.run(run())

    thread = threading.Thread(target=target)
    thread.start()
    assert ready.wait(30)
    try:
        yield found["address"]
    finally:
        found["loop"].call_soon_threadsafe(found["task"].cancel)
        thread.join(30)
        assert not thread.is_alive()


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    return tmp_path_factory.mktemp("out") / "recordings"


@pytest.fixture(scope="module")
def address(imaginers, recordings):
    with serving(imaginers, recordings) as address:
        yield address


class Client:
    """A browser tab as the server knows it."""

    def __init__(self, socket):
        self.socket = socket

    async def receive(self, kind):
        """The next message of a kind."""
        while True:
            message = await self.socket.receive(timeout=30)
            if message.type == aiohttp.WSMsgType.BINARY:
                length = int.from_bytes(message.data[:4], "big")
                found = json.loads(message.data[4 : 4 + length])
                screens = np.frombuffer(message.data[4 + length :], np.uint8)
                found["imagined"], found["real"] = screens.reshape(2, *self.shape)
            elif message.type == aiohttp.WSMsgType.TEXT:
                found = json.loads(message.data)
            else:
                raise ConnectionError(f"{message.type}: {message.data}")
            if found["type"] == "hello":
                self.shape = found["shape"]
            if found["type"] == kind:
                return found

    async def ask(self, **message):
        await self.socket.send_json(message)


@contextlib.asynccontextmanager
async def clients(address, count=1):
    async with aiohttp.ClientSession() as session, contextlib.AsyncExitStack() as stack:
        yield [
            Client(await stack.enter_async_context(session.ws_connect(f"{address}/socket")))
            for _ in range(count)
        ]


def test_a_game_over_the_socket(address, recordings):
    async def play():
        async with clients(address) as (client,):
            hello = await client.receive("hello")
            assert hello["game"] == "ms_pacman" and hello["variants"] == 2
            assert tuple(hello["actions"]) == MS_PACMAN
            first = await client.receive("frame")
            assert first["step"] == 0 and first["error"] == 0
            np.testing.assert_array_equal(first["imagined"], first["real"])
            await client.ask(type="keys", keys=["LEFT"])
            while (frame := await client.receive("frame"))["action"] != "LEFT":
                pass
            assert frame["error"] > 0
            await client.ask(type="pause")
            while not (frame := await client.receive("frame"))["paused"]:
                pass
            await client.ask(type="single")
            after = await client.receive("frame")
            assert after["step"] == frame["step"] + 1 and after["paused"]
            await client.ask(type="resync")
            frame = await client.receive("frame")
            assert frame["step"] == 0 and frame["error"] == 0
            np.testing.assert_array_equal(frame["imagined"], after["real"])
            await client.ask(type="switch")
            assert (await client.receive("frame"))["variant"] == "paper"
            await client.ask(type="save")
            mp4, gif = (await client.receive("saved"))["files"]
            await client.ask(type="new")
            frame = await client.receive("frame")
            assert frame["step"] == 0 and not frame["paused"]
        with av.open(mp4) as container:
            assert sum(1 for _ in container.decode(video=0)) > 0
        with Image.open(gif) as image:
            assert image.n_frames > 0
        assert Path(mp4).parent == recordings

    asyncio.run(play())


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a directory without files")
def test_a_save_that_fails_is_said(imaginers):
    async def play(address):
        async with clients(address) as (client,):
            while (await client.receive("frame"))["step"] < 2:
                pass
            await client.ask(type="save")
            assert "could not save" in (await client.receive("error"))["message"]

    for nowhere in ("/proc/self", "/dev/null/recordings"):  # nothing can be written into, nor made
        with serving(imaginers, Path(nowhere)) as address:
            asyncio.run(play(address))


BAD = [
    "",
    "no JSON",
    "[]",
    "null",
    "{}",
    '{"type": 3}',
    '{"type": "quit"}',
    '{"type": "__init__"}',
    '{"type": "play"}',
    '{"type": "keys"}',
    '{"type": "keys", "keys": "UP"}',
    '{"type": "keys", "keys": ["SIDEWAYS"]}',
    '{"type": "keys", "keys": [["UP"]]}',
    '{"type": "keys", "keys": {"UP": 1}}',
    "[" * 4000,
    b"\x00\xff",
]


def test_bad_messages_are_answered_and_the_game_goes_on(address):
    async def play():
        async with clients(address) as (client,):
            for message in BAD:
                if isinstance(message, bytes):
                    await client.socket.send_bytes(message)
                else:
                    await client.socket.send_str(message)
                assert (await client.receive("error"))["message"].startswith("expected")
            before = (await client.receive("frame"))["step"]
            assert (await client.receive("frame"))["step"] == before + 1
            # One that is too long ends this client and no other.
            await client.socket.send_str("x" * (server.MAX_MESSAGE + 1))
            with pytest.raises(ConnectionError):
                await client.receive("error")
        async with clients(address) as (client,):
            await client.receive("frame")

    asyncio.run(play())


def test_fifty_quick_reconnects_and_two_clients_at_once(address):
    async def play():
        for i in range(50):
            async with clients(address) as (client,):
                if i % 2:
                    await client.receive("hello")
        async with clients(address, 2) as (one, other):
            await one.ask(type="keys", keys=["LEFT"])
            await other.ask(type="keys", keys=["RIGHT"])
            for client, action in ((one, "LEFT"), (other, "RIGHT")):
                while (await client.receive("frame"))["action"] != action:
                    pass

    asyncio.run(play())


def test_a_client_that_never_reads_stalls_nobody(address):
    async def play():
        async with clients(address, 2) as (stalled, client):

            async def flood():
                while True:  # each second one is answered by a frame, until nothing more fits
                    await stalled.ask(type="pause")
                    await asyncio.sleep(0)  # the other client is to read meanwhile

            flooding = asyncio.create_task(flood())
            for _ in range(90):
                await client.receive("frame")
            flooding.cancel()

    asyncio.run(play())


def test_clients_that_vanish_in_the_middle_leave_no_game_behind(address):
    async def play():
        host, port = address.removeprefix("http://").split(":")
        for _ in range(server.MAX_GAMES + 2):
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(
                f"GET /socket HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: Upgrade\r\n"
                "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
                "Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n".encode()
            )
            assert b" 101 " in await reader.readline()
            await reader.read(2000)
            writer.transport.abort()
        # Their games end as soon as the server has sent them something.
        accepted = False
        while not accepted:
            async with clients(address) as (client,):
                with contextlib.suppress(ConnectionError):
                    await client.receive("frame")
                    accepted = True

    asyncio.run(play())


def test_more_games_than_stated_are_refused(address):
    async def play():
        async with clients(address, server.MAX_GAMES + 1) as every:
            for client in every[:-1]:
                await client.receive("frame")
            refusal = await every[-1].receive("error")
            assert "close one" in refusal["message"]
        async with clients(address) as (client,):
            await client.receive("frame")

    asyncio.run(play())


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "example.org"},
        {"Host": "127.0.0.1"},
        {"Origin": "http://example.org"},
        {"Origin": "null"},
    ],
)
def test_other_hosts_and_origins_are_refused(address, headers):
    async def ask():
        async with aiohttp.ClientSession(headers=headers) as session:
            for path in ("/", "/play.js", "/socket"):
                async with session.get(address + path) as answer:
                    assert answer.status == 403
            with pytest.raises(aiohttp.WSServerHandshakeError):
                await session.ws_connect(f"{address}/socket")

    asyncio.run(ask())


def test_the_port_that_browsers_leave_out_is_served(imaginers):
    served = server._Server(imaginers, None, None)
    served.port = 80

    async def answer(host):
        async def page(request):
            return web.Response()

        request = make_mocked_request("GET", "/", headers={"Host": host})
        return (await served.refuse_strangers(request, page)).status

    assert asyncio.run(answer("localhost")) == 200
    with pytest.raises(web.HTTPForbidden):
        asyncio.run(answer("localhost:8080"))


def test_the_script_serves_until_it_is_interrupted(tmp_path):
    checkpoint = make_checkpoint(tmp_path / "checkpoint", "compression", model="lstm_84x84x1")

    def start(port):
        return subprocess.Popen(
            [sys.executable, "play.py", f"--checkpoint={checkpoint}", f"--port={port}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=heed_interrupts,
        )

    with start(0) as process:
        address = process.stdout.readline().split()[0]

        async def play():
            async with clients(address) as (client,):
                assert (await client.receive("hello"))["variants"] == 1
                with start(address.rsplit(":", 1)[1]) as second:
                    _, error = second.communicate(timeout=120)
                    assert second.returncode == 2 and "expected a free port" in error
                process.send_signal(signal.SIGINT)
                with pytest.raises(ConnectionError):
                    await client.receive("never")

        asyncio.run(play())
        _, error = process.communicate(timeout=60)
        assert process.returncode == 0, error
        assert "Traceback" not in error


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.mark.skipif(not CHROMIUM, reason="there is no chromium: apt-get install chromium")
def test_the_page_in_a_browser(imaginers, tmp_path):
    from playwright.sync_api import sync_playwright

    trained = os.environ.get("PLAY_CHECKPOINT")
    if trained:
        imaginers = [Imaginer(trained)]
    with (
        serving(imaginers, tmp_path / "recordings", fps=15) as address,
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"]) as browser,
    ):
        page = browser.new_page(viewport={"width": 1000, "height": 860})
        problems = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda line: line.type == "error" and problems.append(line.text))
        page.goto(address)

        def text(name):
            return page.inner_text(f"#{name}")

        def wait(condition):
            page.wait_for_function(condition, timeout=60_000)

        def pixels(name):
            return page.evaluate(
                f"Array.from(document.getElementById('{name}').getContext('2d')"
                f".getImageData(0, 0, hello.shape[1], hello.shape[0]).data)"
            )

        wait("Number(document.getElementById('step').textContent) > 2")
        page.keyboard.down("ArrowUp")
        wait("document.getElementById('action').textContent === 'UP'")
        before = pixels("real"), pixels("imagined")
        wait("Number(document.getElementById('step').textContent) > 30")
        assert pixels("real") != before[0] and pixels("imagined") != before[1]
        if path := os.environ.get("PLAY_SCREENSHOT"):
            page.screenshot(path=path)
        page.keyboard.up("ArrowUp")
        page.keyboard.press("p")
        wait("document.getElementById('fps').textContent === 'paused'")
        wait("errors.length && errors.at(-1)[0] > 0")
        # R: the model is shown the real frames.
        page.keyboard.press("r")
        wait("document.getElementById('step').textContent === '0'")
        assert pixels("imagined") == pixels("real")
        page.keyboard.press("n")
        wait("document.getElementById('step').textContent === '1'")
        if len(imaginers) > 1:
            page.keyboard.press("m")
            wait("document.getElementById('about').textContent.includes('paper')")
        page.keyboard.press("s")
        wait("document.getElementById('notice').textContent.startsWith('Saved')")
        assert text("notice").endswith(".gif")
        page.keyboard.press("b")
        wait("Number(document.getElementById('step').textContent) > 1")
        # The pad, as a finger on a phone uses it; nothing is wider than the screen.
        page.set_viewport_size({"width": 360, "height": 740})
        page.dispatch_event("[data-key=LEFT]", "pointerdown")
        left = "LEFT" if "LEFT" in imaginers[0].config["action_meanings"] else "NOOP"
        wait(f"document.getElementById('action').textContent === '{left}'")
        page.dispatch_event("[data-key=LEFT]", "pointerup")
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        assert not problems
    assert len(list((tmp_path / "recordings").iterdir())) == 2
