"""Playing in the model: the twin game, the server's protocol, the page in a real browser.

The screenshot of docs/tools.md is made by the test of the page, with a trained checkpoint:

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
from systems.policies import PersistentPolicy
from systems.seeds import generator
from utils.acting import server, twin_game
from utils.acting.port import listen
from utils.acting.session import Keyboard
from utils.acting.twin_game import TwinGame, WorldModel, action_of_keys
from utils.checkpoint import Checkpoint, check_alike

from . import tiny  # noqa: F401 - registers the preset "tiny"
from .checkpoints import write_checkpoint
from .interrupts import heed_interrupts

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
MS_PACMAN = AtariGame("ms_pacman").action_meanings


def make_checkpoint(directory, variant="compression", game="ms_pacman", diverged=False, **changes):
    """A checkpoint with untrained weights, for a game's own actions."""
    meanings = AtariGame(game).action_meanings
    keras.utils.set_random_seed(0)
    predictor = FramePredictor(changes.get("model", "tiny"), variant, len(meanings))
    predictor.network.adapt(np.full(predictor.preset.frame_shape, 90.0), 40.0)
    if diverged:
        for head in (predictor.network.reward_head, predictor.network.termination_head):
            for weight in head.weights:
                weight.assign(np.full(weight.shape, np.nan))
    changes = {"action_meanings": meanings, "game": game, "variant": variant, **changes}
    return write_checkpoint(directory, predictor=predictor, **changes)


def world_model(directory):
    return WorldModel(Checkpoint(directory))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoints")
    return [world_model(make_checkpoint(path / v, v)) for v in ("compression", "paper")]


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
        (["2"], ("0", "1", "2"), "2"),
        (["7", "UP"], ("0", "1", "2"), "0"),
        (["1", "UP"], MS_PACMAN, "UP"),
    ],
)
def test_keys_become_the_nearest_action(keys, meanings, expected):
    assert meanings[action_of_keys(set(keys), meanings)] == expected


def test_a_tapped_key_counts_once_and_beats_its_opposite():
    keyboard = Keyboard()
    keyboard.hold({"RIGHT"})
    assert keyboard.take() == {"RIGHT"}
    keyboard.hold({"RIGHT", "LEFT"})
    keyboard.hold({"RIGHT"})
    assert keyboard.take() == {"LEFT"}
    assert keyboard.take() == {"RIGHT"}
    keyboard.hold({"UP", "RIGHT"})
    assert keyboard.take() == {"UP", "RIGHT"}
    keyboard.hold(set())
    assert keyboard.take() == set()


def test_twins_start_alike_and_the_real_one_is_the_emulators(models):
    twin = TwinGame(models, seed=3)
    assert twin.error == 0 and twin.steps == 0
    other = TwinGame(models, seed=3)
    for action in [1, 2, 3, 4, 4, 4]:
        twin.step(action)
        other.step(action)
    np.testing.assert_array_equal(twin.real, other.real)
    np.testing.assert_array_equal(twin.imagined, other.imagined)
    assert twin.steps == 6 and twin.error > 0
    assert twin.total_predicted_reward == other.total_predicted_reward != 0
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


def test_unlearned_rewards_are_not_shown_and_other_games_actions_are_refused(
    tmp_path, monkeypatch, capsys
):
    numbers = tuple(str(number) for number in range(len(MS_PACMAN)))
    path = make_checkpoint(tmp_path / "seq_5", reward_weight=0.0, action_meanings=numbers)
    twin = TwinGame([world_model(path)])
    assert not twin.predicts_rewards
    assert twin.action_meanings == MS_PACMAN  # data without names is of the game's own actions
    make_checkpoint(path, action_meanings=MS_PACMAN[::-1])
    with pytest.raises(InputError, match="actions of ms_pacman"):
        TwinGame([world_model(path)])
    # The script says so before anybody connects.
    monkeypatch.setattr(sys, "argv", ["play.py", f"--checkpoint={path}", "--port=0"])
    with pytest.raises(SystemExit) as error:
        play.main()
    assert error.value.code == 2
    assert "actions of ms_pacman" in capsys.readouterr().err


def test_a_game_that_is_over_stands_still(models):
    twin = TwinGame(models, seed=0)
    while not twin.over:
        twin.emulator.step(2)
    steps = twin.steps
    twin.step(0)
    assert twin.steps == steps
    twin.restart()
    assert not twin.over and twin.total_reward == 0


def test_a_game_that_is_short_is_begun_before_its_end(tmp_path):
    # Played at random, 20 of 25 first drawn starts are after the end of this one.
    model = world_model(make_checkpoint(tmp_path / "short", game="laser_gates"))
    twins = [TwinGame([model], seed) for seed in range(5)]
    assert not any(twin.over for twin in twins)


def test_the_real_game_is_played_as_the_models_data_was(tmp_path):
    for frame_skip in (4, 1):
        path = make_checkpoint(tmp_path / str(frame_skip), frame_skip=frame_skip)
        assert TwinGame([world_model(path)]).emulator.frame_skip == frame_skip
    path = make_checkpoint(tmp_path / "pooled", pooled_frames=6)
    assert TwinGame([world_model(path)]).emulator.pooled_frames == 6


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_a_twin_game_does_not_start_as_a_recording_does(models, monkeypatch, seed):
    drawn = []

    class Noted(PersistentPolicy):
        def action(self):
            drawn.append(super().action())
            return drawn[-1]

    monkeypatch.setattr(twin_game, "PersistentPolicy", Noted)
    game = TwinGame(models, seed).emulator
    for step_is_drawn in (False, True):  # as a recording's first episode
        rng = generator("recording", seed, 0)
        if step_is_drawn:  # as the start's is
            rng.integers(10, twin_game.LATEST_START)
        policy = PersistentPolicy(game, rng)
        assert [policy.action() for _ in drawn] != drawn


def test_checkpoints_of_two_games_are_refused(models, tmp_path):
    freeway = Checkpoint(make_checkpoint(tmp_path / "freeway", "paper", game="freeway"))
    with pytest.raises(InputError, match="the same game, received ms_pacman and freeway"):
        check_alike([models[0].checkpoint, freeway])


def run_script(script, *flags):
    """Runs a script; its result, and the slow packages that it imported."""
    command = (
        "import json, runpy, sys\n"
        f"sys.argv = {[script, *map(str, flags)]}\n"
        "try:\n"
        f"    runpy.run_path({script!r}, run_name='__main__')\n"
        "finally:\n"
        "    slow = ('numpy', 'keras', 'tensorflow')\n"
        "    print(json.dumps([name for name in slow if name in sys.modules]))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", command], cwd=ROOT, capture_output=True, text=True
    )
    return result, json.loads(result.stdout.splitlines()[-1])


@pytest.mark.parametrize("script", ["play.py", "plan.py"])
def test_the_command_line_is_read_before_numpy_is_imported(script):
    result, imported = run_script(script, "--help")
    assert result.returncode == 0 and "--checkpoint" in result.stdout and not imported
    result, imported = run_script(script, "--checkpoint=there", "--mistyped")
    assert result.returncode == 2 and "--mistyped" in result.stderr and not imported


@pytest.mark.parametrize("script, more", [("play.py", ["--port=0"]), ("plan.py", [])])
def test_a_wrong_path_is_an_error_before_keras_is_imported(script, more, tmp_path):
    result, imported = run_script(script, f"--checkpoint={tmp_path}", *more)
    assert result.returncode == 2 and "directory of a trained stage" in result.stderr
    assert imported == ["numpy"]


@pytest.mark.parametrize("fps", ["60.5", "61", "1e9", "1e308", "inf", "nan", "0", "-1", "fast"])
def test_a_speed_that_nobody_can_play_at_is_refused(fps, capsys):
    with pytest.raises(SystemExit) as error:
        play.parser().parse_args(["--checkpoint=.", f"--fps={fps}"])
    assert error.value.code == 2
    assert "argument --fps: expected a whole number" in capsys.readouterr().err
    assert play.parser().parse_args(["--checkpoint=.", "--fps=60"]).fps == 60


RECORDING = """
import sys
from pathlib import Path

import cv2

from systems.atari import AtariGame
from utils.acting.recorder import RECORDED_SECONDS, Recorder, write_recording

def megabytes(name):  # in memory: VmRSS now, VmHWM at most so far
    status = Path("/proc/self/status").read_text()
    return int(status.split(name + ":")[1].split()[0]) / 1024

game, shape, fps = AtariGame("ms_pacman", frame_skip=1), (210, 160, 3), 60
recorder = Recorder(shape, fps)
recorder.append(game.observation(shape), game.observation(shape), "")
before = megabytes("VmRSS")
for step in range(fps * RECORDED_SECONDS):
    game.step(step // 20 % game.num_actions)
    real = game.observation(shape)
    recorder.append(real, cv2.GaussianBlur(real, (5, 5), 1.5), f"step {step}")
    if game.terminated:
        game.reset()
kept = megabytes("VmRSS")
assert len(recorder.steps()) == fps * RECORDED_SECONDS
# Fewer, because encoding takes a fifth of a second a frame. Once all of them were in memory, at
# 4 MB each.
write_recording(recorder.steps()[-45:], shape, Path(sys.argv[1]), "ms_pacman", fps)
print(kept - before, megabytes("VmHWM") - kept)
"""


@pytest.mark.thorough
@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="measures memory by Linux' /proc"
)
def test_a_recording_takes_little_memory(tmp_path):
    command = [sys.executable, "-c", RECORDING, str(tmp_path)]
    measured = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    kept, more_while_saving = map(float, measured.stdout.split())
    assert kept < 60  # once 363 MB
    assert more_while_saving < 200
    assert {path.suffix for path in tmp_path.iterdir()} == {".mp4", ".gif"}


@contextlib.contextmanager
def serving(models, recordings, fps=30.0):
    """The address of a server in a thread of its own."""
    ready, running = threading.Event(), {}

    async def run():
        def on_ready(address):
            running["address"] = address
            ready.set()

        running["loop"], running["task"] = asyncio.get_running_loop(), asyncio.current_task()
        await server.serve(models, listen(0), fps, recordings, on_ready)

    def target():
        with contextlib.suppress(asyncio.CancelledError):
            asyncio.run(run())

    thread = threading.Thread(target=target)
    thread.start()
    assert ready.wait(30)
    try:
        yield running["address"]
    finally:
        running["loop"].call_soon_threadsafe(running["task"].cancel)
        thread.join(30)
        assert not thread.is_alive()


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    return tmp_path_factory.mktemp("out") / "recordings"


@pytest.fixture(scope="module")
def address(models, recordings):
    with serving(models, recordings) as address:
        yield address


def parse(text):
    """JSON as browsers read it: they know no NaN."""

    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)


class Client:
    """A browser tab as the server knows it."""

    def __init__(self, socket):
        self.socket = socket

    async def receive(self, kind):
        """The next message of a kind."""
        while True:
            received = await self.socket.receive(timeout=30)
            if received.type == aiohttp.WSMsgType.BINARY:
                length = int.from_bytes(received.data[:4], "big")
                message = parse(received.data[4 : 4 + length])
                screens = np.frombuffer(received.data[4 + length :], np.uint8)
                message["imagined"], message["real"] = screens.reshape(2, *self.shape)
            elif received.type == aiohttp.WSMsgType.TEXT:
                message = parse(received.data)
            else:
                raise ConnectionError(f"{received.type}: {received.data}")
            if message["type"] == "hello":
                self.shape = message["shape"]
            if message["type"] == kind:
                return message

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


def test_a_key_tapped_between_two_steps_counts_in_the_next(models, tmp_path):
    async def play(address):
        async with clients(address) as (client,):
            await client.receive("hello")
            for _ in range(2):
                await client.receive("frame")
            # The next step is half a second away.
            await client.ask(type="keys", keys=["LEFT"])
            await client.ask(type="keys", keys=[])
            actions = [(await client.receive("frame"))["action"] for _ in range(3)]
        assert actions.count("LEFT") == 1 and actions[-1] == "NOOP"

    with serving(models, tmp_path, fps=2.0) as address:
        asyncio.run(play(address))


def test_the_planner_takes_the_keys_and_gives_them_back(models, tmp_path):
    async def play(address):
        async with clients(address) as (client,):
            await client.receive("hello")
            await client.ask(type="keys", keys=["LEFT"])
            await client.ask(type="planner")
            while not (await client.receive("frame"))["planner"]:
                pass
            frames = [await client.receive("frame") for _ in range(40)]
            assert all(frame["planner"] for frame in frames)
            assert len({frame["action"] for frame in frames}) > 1
            # It goes on by itself in a new game, from the real frames, and in the other model.
            for command in ("new", "resync", "switch"):
                await client.ask(type=command)
                while (await client.receive("frame"))["step"] < 3:
                    pass
            await client.ask(type="planner")
            while (await client.receive("frame"))["planner"]:
                pass
            assert (await client.receive("frame"))["action"] == "LEFT"

    with serving(models, tmp_path) as address:
        asyncio.run(play(address))


def test_there_is_no_planner_where_rewards_are_not_predicted(models, tmp_path):
    unlearned = world_model(make_checkpoint(tmp_path / "unlearned", reward_weight=0.0))

    async def play(address):
        async with clients(address) as (client,):
            await client.receive("hello")
            await client.ask(type="planner")
            while not (await client.receive("frame"))["planner"]:
                pass
            await client.ask(type="switch")
            while (await client.receive("frame"))["planner"]:
                pass
            await client.ask(type="planner")
            assert "has not learned" in (await client.receive("error"))["message"]

    with serving([models[0], unlearned], tmp_path) as address:
        asyncio.run(play(address))


def test_what_a_diverged_model_predicts_is_sent_as_json(tmp_path):
    model = world_model(make_checkpoint(tmp_path / "diverged", diverged=True))

    async def play(address):
        async with clients(address) as (client,):
            while (frame := await client.receive("frame"))["step"] < 2:
                pass
            for name in ("predicted_reward", "total_predicted_reward", "termination"):
                assert frame[name] is None

    with serving([model], tmp_path / "recordings") as address:
        asyncio.run(play(address))


def test_the_socket_does_not_compress_for_this_machine(address):
    async def connect():
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(f"{address}/socket", compress=15) as socket,
        ):
            return socket.compress

    assert asyncio.run(connect()) == 0


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a directory without files")
def test_a_save_that_fails_is_reported(models):
    async def play(address):
        async with clients(address) as (client,):
            while (await client.receive("frame"))["step"] < 2:
                pass
            await client.ask(type="save")
            assert "could not save" in (await client.receive("error"))["message"]

    for nowhere in ("/proc/self", "/dev/null/recordings"):  # nothing can be written into, nor made
        with serving(models, Path(nowhere)) as address:
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


@pytest.mark.thorough
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


@pytest.mark.thorough
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
        for _ in range(server.MAX_SESSIONS + 2):
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
        async with asyncio.timeout(30):
            while not await accepted():
                await asyncio.sleep(0.05)

    async def accepted():
        async with clients(address) as (client,):
            with contextlib.suppress(ConnectionError):
                await client.receive("frame")
                return True
        return False

    asyncio.run(play())


def test_more_games_than_stated_are_refused(address):
    async def play():
        async with clients(address, server.MAX_SESSIONS + 1) as every:
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
        {"Host": "127.0.0.1.example.org"},
        {"Host": "127.0.0.1:8080", "Origin": "http://127.0.0.1:3000"},
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


@pytest.mark.parametrize("host", ["localhost", "localhost:8080", "127.0.0.1:8080"])
def test_a_forwarded_port_and_the_one_that_browsers_leave_out_are_served(models, tmp_path, host):
    served = server.Server(models, 15, tmp_path)

    async def answer(headers):
        async def page(request):
            return web.Response()

        request = make_mocked_request("GET", "/", headers=headers)
        return (await served.refuse_strangers(request, page)).status

    assert asyncio.run(answer({"Host": host})) == 200
    assert asyncio.run(answer({"Host": host, "Origin": f"http://{host}"})) == 200
    with pytest.raises(web.HTTPForbidden):
        asyncio.run(answer({"Host": host, "Origin": "http://localhost:3000"}))


def test_the_script_serves_until_it_is_interrupted(tmp_path):
    checkpoint = make_checkpoint(tmp_path / "checkpoint")
    code = "import tests.tiny, play; play.main()"

    def start(port):
        return subprocess.Popen(
            [sys.executable, "-c", code, f"--checkpoint={checkpoint}", f"--port={port}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=heed_interrupts,
            cwd=ROOT,
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
def test_the_page_in_a_browser(models, tmp_path):
    from playwright.sync_api import sync_playwright

    trained = os.environ.get("PLAY_CHECKPOINT")
    if trained:
        models = [world_model(trained)]
    with (
        serving(models, tmp_path / "recordings", fps=15) as address,
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
        # R shows the model the real frames.
        page.keyboard.press("r")
        wait("document.getElementById('step').textContent === '0'")
        assert pixels("imagined") == pixels("real")
        page.keyboard.press("n")
        wait("document.getElementById('step').textContent === '1'")
        # A hands the keys to the planner. Arrow keys change nothing then.
        page.keyboard.press("a")
        wait("document.getElementById('planner').getAttribute('aria-pressed') === 'true'")
        page.keyboard.down("ArrowUp")
        page.keyboard.press("p")
        wait("document.getElementById('action').textContent.endsWith(' (planner)')")
        wait("Number(document.getElementById('step').textContent) > 30")
        page.keyboard.press("a")
        wait("document.getElementById('action').textContent === 'UP'")
        page.keyboard.up("ArrowUp")
        if len(models) > 1:
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
        left = "LEFT" if "LEFT" in models[0].checkpoint.config.action_meanings else "NOOP"
        wait(f"document.getElementById('action').textContent === '{left}'")
        page.dispatch_event("[data-key=LEFT]", "pointerup")
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        assert not problems
    assert len(list((tmp_path / "recordings").iterdir())) == 2
