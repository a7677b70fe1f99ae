"""Recorded data sets: what is in them, and what is left behind when recording goes wrong."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import minari
import numpy as np
import pytest

from systems.atari import AtariGame
from systems.dataset import Dataset
from systems.episodes import Colour, Episode, EpisodeWorker
from systems.errors import InputError
from systems.files import workspace
from systems.real_game import RealGame
from systems.record import dataset_directory, main, record
from systems.workers import Worker

from .interrupts import heed_interrupts

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
GAME, POLICY, NUM_FRAMES, SEED = "ms_pacman", "random", 1500, 3
DATA_SET = (GAME, POLICY, NUM_FRAMES, SEED)
FLAGS = [f"--atari_game={GAME}", f"--num_frames={NUM_FRAMES}", f"--seed={SEED}"]


@pytest.fixture(scope="module")
def data_path(tmp_path_factory) -> Path:
    """A directory with one data set, recorded by two workers."""
    path = tmp_path_factory.mktemp("data")
    assert record(*DATA_SET, path, num_workers=2, progress=False) == directory_in(path)
    return path


@pytest.fixture(scope="module")
def metadata(data_path) -> dict:
    return json.loads((directory_in(data_path) / "metadata.json").read_text())


def directory_in(data_path: Path) -> Path:
    return dataset_directory(data_path, *DATA_SET)


def contents(directory: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in directory.iterdir()}


def episodes_of(directory: Path) -> Iterator[dict[str, np.ndarray]]:
    with h5py.File(directory / "main_data.hdf5") as file:
        for index in range(len(file)):
            group = file[f"episode_{index}"]
            assert set(group.attrs) == {"id", "total_steps", "seed", "no_ops"}
            assert group.attrs["id"] == index
            assert group.attrs["total_steps"] == len(group["actions"])
            yield {name: values[()] for name, values in group.items()}


def start(data_path: Path, *flags: str, **options) -> subprocess.Popen:
    """Starts the command line in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "systems.record", *FLAGS, f"--data_path={data_path}", *flags],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        **options,
    )


def names_in(data_path: Path) -> list[str]:
    """What lies among the data sets of the game, but for lock files, which stay."""
    return sorted(path.name for path in (data_path / GAME).iterdir() if path.suffix != ".lock")


def read_until(condition: Callable[[], bool], process: subprocess.Popen) -> None:
    """Reads the progress on stderr until the condition holds."""
    progress = b""
    while not condition():
        progress += (piece := process.stderr.read1())
        assert piece, f"the process ended too early: {progress.decode()}"


def holds_data(data_path: Path) -> bool:
    """Returns whether episodes have been written under the hidden, provisional name."""
    files = data_path.glob(f"{GAME}/.partial-*/**/main_data.hdf5")
    return any(file.stat().st_size > 100_000 for file in files)


def test_replaying_the_actions_gives_the_recorded_frames_and_rewards(data_path):
    game, no_ops = AtariGame(GAME), Dataset(directory_in(data_path)).no_ops
    for episode, count in zip(episodes_of(directory_in(data_path)), no_ops, strict=True):
        steps = len(episode["actions"])
        assert np.array_equal(episode["observations"][0], game.start(count))
        for t in range(steps):
            observation, reward, terminated = game.step(episode["actions"][t])
            assert np.array_equal(episode["observations"][t + 1], observation)
            assert episode["rewards"][t] == reward
            assert episode["terminations"][t] == terminated
            assert not episode["truncations"][t] or t == steps - 1


def test_episodes_begin_with_no_ops_of_their_own(data_path):
    with h5py.File(directory_in(data_path) / "main_data.hdf5") as file:
        starts = {group.attrs["seed"]: group.attrs["no_ops"] for group in file.values()}
    assert len(starts) == len(Dataset(directory_in(data_path)).no_ops)  # no seed comes twice
    assert len(set(starts.values())) > 1
    game = AtariGame(GAME)
    for seed, no_ops in starts.items():
        game.reset(int(seed))
        assert game.no_ops == no_ops


def test_number_of_frames_is_exact_and_only_the_last_episode_is_cut(data_path, metadata):
    episodes = list(episodes_of(directory_in(data_path)))
    assert len(episodes) == metadata["total_episodes"] >= 3
    assert sum(len(e["actions"]) for e in episodes) == metadata["total_steps"] == NUM_FRAMES
    for episode in episodes:
        steps = len(episode["actions"])
        last = episode is episodes[-1]
        assert episode["observations"].shape == (steps + 1, 210, 160)
        assert {name: str(values.dtype) for name, values in episode.items()} == {
            "observations": "uint8",
            "actions": "int64",
            "rewards": "float32",
            "terminations": "bool",
            "truncations": "bool",
        }
        assert episode["terminations"].tolist() == [False] * (steps - 1) + [not last]
        assert episode["truncations"].tolist() == [False] * (steps - 1) + [last]
    assert not np.array_equal(episodes[0]["actions"][:50], episodes[1]["actions"][:50])
    returns = [episode["rewards"].sum() for episode in episodes[:-1]]
    assert metadata["mean_episode_return"] == pytest.approx(np.mean(returns))


def test_a_cut_episode_keeps_nothing_from_after_the_cut():
    early, late = (Colour(frame, frame, (1, 2, 3), 4) for frame in (2, 3))
    frames = [b"0", b"1", b"2", b"3"]
    episode = Episode(frames, [5, 6, 7], [0.0, 1.0, 2.0], [early, late], terminated=True)
    episode.cut(2)
    assert episode == Episode([b"0", b"1", b"2"], [5, 6], [0.0, 1.0], [early], terminated=False)


def test_end_of_a_game_in_the_last_frame_is_no_cut(data_path, tmp_path):
    length = len(next(episodes_of(directory_in(data_path)))["actions"])
    for num_frames, terminated in ((length, True), (length - 1, False)):
        directory = record(GAME, POLICY, num_frames, SEED, tmp_path, progress=False)
        (episode,) = episodes_of(directory)
        assert (episode["terminations"][-1], episode["truncations"][-1]) == (
            terminated,
            not terminated,
        )


def test_metadata_says_how_the_episodes_were_played(metadata):
    expected = {
        "game": GAME,
        "policy": POLICY,
        "policy_settings": {},
        "seed": SEED,
        "frame_skip": 4,
        "pooled_frames": 2,
        "repeat_action_probability": 0.0,
        "jpeg_encoding": False,
        "action_meanings": list(AtariGame(GAME).action_meanings),
    }
    assert {name: metadata[name] for name in expected} == expected
    assert set(metadata["versions"]) == {"ale-py", "numpy", "h5py"}


def test_another_number_of_pooled_frames_has_its_own_name(tmp_path, monkeypatch, capsys):
    """The game's own number has the usual name, also where it is asked for."""
    flags = ["--atari_game=pacman", "--num_frames=60", f"--data_path={tmp_path}"]
    for flag, number, name in (
        (["--pooled_frames=4"], 4, "random-60-seed1-v2"),
        (["--pooled_frames=2"], 2, "random-pooled2-60-seed1-v2"),
        (["--pooled_frames=6"], 6, "random-pooled6-60-seed1-v2"),
    ):
        main([*flags, *flag])
        metadata = json.loads((tmp_path / "pacman" / name / "data/metadata.json").read_text())
        assert (metadata["dataset_id"], metadata["pooled_frames"]) == (f"pacman/{name}", number)
        dataset = Dataset(tmp_path / "pacman" / name)
        game = AtariGame("pacman", pooled_frames=number)
        game.start(dataset.no_ops[0])
        for action in dataset.actions[0]:
            game.step(int(action))
        last = dataset.read(0, 60, 1, (250, 160, 3))["frames"][0]
        assert np.array_equal(last, game.screen())
    main(flags)
    assert "there already" in capsys.readouterr().out
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    assert len(minari.list_local_datasets()) == 3


def test_another_mode_and_difficulty_have_their_own_name(tmp_path, capsys):
    flags = ["--atari_game=freeway", "--num_frames=40", f"--data_path={tmp_path}"]
    main([*flags, "--mode=3", "--difficulty=1"])
    dataset = Dataset(tmp_path / "freeway/random-mode3-difficulty1-40-seed1-v2")
    assert (dataset.metadata["mode"], dataset.metadata["difficulty"]) == (3, 1)
    assert (dataset.emulator.mode, dataset.emulator.difficulty) == (3, 1)
    last = dataset.read(0, 40, 1, (210, 160, 3))["frames"][0]
    for mode, difficulty in (0, 0), (3, 1):
        game = AtariGame("freeway", mode=mode, difficulty=difficulty)
        game.start(dataset.no_ops[0])
        for action in dataset.actions[0]:
            game.step(int(action))
        # Other traffic, but only in the mode that is not the usual one.
        assert np.array_equal(last, game.screen()) == (mode == 3)
    with pytest.raises(SystemExit) as end:
        main([*flags, "--mode=9"])
    assert end.value.code == 2
    assert "expected a mode of freeway, 0, 1, 2" in capsys.readouterr().err


def test_several_policies_take_turns(tmp_path):
    main([f"--data_path={tmp_path}", *FLAGS, "--policy=random:0.5,persistent:0.5"])
    (directory,) = (tmp_path / GAME).glob("random0_5-persistent0_5-*-v2")
    assert Dataset(directory).metadata["policy"] == "random:0.5,persistent:0.5"


def test_palettes_give_the_colours_of_exactly_the_recorded_frames(data_path, metadata):
    game = AtariGame(GAME)
    used = set()
    for index, episode in enumerate(episodes_of(directory_in(data_path))):
        used |= set(np.unique(episode["observations"]).tolist())
        if index == 0:
            game.start(Dataset(directory_in(data_path)).no_ops[0])
            for action in episode["actions"][:100]:
                game.step(action)
            frame = episode["observations"][100]
    assert {i for i, rgb in enumerate(metadata["palette"]) if rgb is not None} == used
    assert {i for i, grey in enumerate(metadata["grey_palette"]) if grey is not None} == used
    rgb = np.array([entry or (0, 0, 0) for entry in metadata["palette"]])
    grey = np.array([entry or 0 for entry in metadata["grey_palette"]])
    assert np.array_equal(rgb[frame], game.screen_rgb())
    assert np.array_equal(grey[frame], game.screen_grey())


def test_a_colour_that_no_recorded_frame_shows_has_no_place_in_the_palettes(tmp_path):
    # Kaboom draws in colours that are the darker ones of a step's two frames throughout.
    directory = record("kaboom", "random", 150, 1, tmp_path, progress=False)
    frames = np.concatenate([episode["observations"] for episode in episodes_of(directory)])
    shown = set(np.unique(frames).tolist())
    metadata = json.loads((directory / "metadata.json").read_text())
    assert {i for i, rgb in enumerate(metadata["palette"]) if rgb is not None} == shown
    assert {i for i, grey in enumerate(metadata["grey_palette"]) if grey is not None} == shown


def test_minari_reads_the_very_frames(data_path, metadata, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(data_path))
    data_set = minari.load_dataset(f"{GAME}/{POLICY}-{NUM_FRAMES}-seed{SEED}-v2")
    assert data_set.total_steps == NUM_FRAMES
    assert data_set.action_space.n == 9
    recorded = list(episodes_of(directory_in(data_path)))
    assert len(data_set) == len(recorded)
    for read, episode in zip(data_set, recorded, strict=True):
        for name, values in episode.items():
            assert np.array_equal(getattr(read, name), values), name
        assert data_set.observation_space.contains(read.observations[0])
    assert list(minari.list_local_datasets()) == [metadata["dataset_id"]]


def test_known_actions_give_the_same_bytes_and_the_policy_goes_on_after_them(tmp_path):
    chosen = record("freeway", "lookahead", 40, 1, tmp_path / "chosen", 1, progress=False)
    with h5py.File(chosen / "main_data.hdf5") as file:
        actions = file["episode_0/actions"][()]

    def again(name, known):
        return record("freeway", "lookahead", 40, 1, tmp_path / name, 1, False, known_actions=known)

    assert contents(again("all", [actions])) == contents(chosen)
    others = (actions[:30] + 1) % 3
    with h5py.File(again("some", [others]) / "main_data.hdf5") as file:
        assert list(file["episode_0/actions"][:30]) == list(others)
        assert len(file["episode_0/actions"]) == 40


def test_minari_lists_data_sets_of_any_epsilon(tmp_path, monkeypatch):
    path = record("freeway", "lookahead", 20, 1, tmp_path, progress=False, epsilon=0.95)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    (known,) = minari.list_local_datasets()
    assert path == tmp_path / known / "data"


@pytest.mark.parametrize("num_workers", [1, 3])
def test_bytes_do_not_depend_on_the_number_of_workers(num_workers, data_path, tmp_path):
    directory = record(*DATA_SET, tmp_path, num_workers=num_workers, progress=False)
    assert contents(directory) == contents(directory_in(data_path))


def test_another_seed_gives_other_actions(data_path, tmp_path):
    other = record(GAME, POLICY, 50, SEED + 1, tmp_path, progress=False)
    actions = [next(episodes_of(d))["actions"][:50] for d in (other, directory_in(data_path))]
    assert not np.array_equal(*actions)


def test_game_of_another_height_and_the_persistent_policy(tmp_path):
    directory = record("air_raid", "persistent", 100, 0, tmp_path, progress=False)
    (episode,) = episodes_of(directory)
    assert episode["observations"].shape == (101, 250, 160)
    assert np.mean(episode["actions"][1:] == episode["actions"][:-1]) > 0.8
    metadata = json.loads((directory / "metadata.json").read_text())
    assert metadata["policy_settings"] == {"mean_hold_steps": 20}
    assert metadata["mean_episode_return"] is None


def test_command_line_records_and_then_leaves_what_is_there(tmp_path, data_path):
    process = start(tmp_path, "--num_workers=1", "--atari_game=ms_pacman.bin")
    output, progress = process.communicate()
    assert process.returncode == 0
    assert str(directory_in(tmp_path)).encode() in output and b"frames/s" in progress
    assert contents(directory_in(tmp_path)) == contents(directory_in(data_path))

    (directory_in(tmp_path) / "metadata.json").write_text("changed")
    again = start(tmp_path)
    output, _ = again.communicate()
    assert again.returncode == 0 and b"there already" in output
    assert (directory_in(tmp_path) / "metadata.json").read_text() == "changed"

    assert start(tmp_path, "--overwrite").wait() == 0
    assert contents(directory_in(tmp_path)) == contents(directory_in(data_path))
    assert names_in(tmp_path) == [directory_in(Path()).parts[-2]]


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--num_frames=0", "expected a whole number of at least 1, received '0'"),
        ("--num_frames=many", "expected a whole number of at least 1, received 'many'"),
        ("--num_workers=0", "expected a whole number of at least 1, received '0'"),
        ("--seed=-1", "expected a whole number of at least 0 and at most 4294967295"),
        ("--pooled_frames=0", "expected a whole number of at least 1 and at most 8, received '0'"),
        ("--pooled_frames=9", "expected a whole number of at least 1 and at most 8, received '9'"),
        ("--epsilon=2", "expected a number from 0 to 1, received '2'"),
        ("--epsilon=little", "expected a number from 0 to 1, received 'little'"),
        ("--epsilon=0.1", "lookahead or skilled alone, received one for random"),
        ("--policy=clever", "random"),
        ("--atari_game=freewey", "did you mean: freeway"),
        ("--atari_game=combat", "combat needs two players"),
    ],
)
def test_unusable_flag_is_one_message_and_exit_code_2(flag, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        main([f"--data_path={tmp_path}", flag])
    assert end.value.code == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["num_frames", "num_workers", "seed"])
def test_record_itself_refuses_the_same_numbers(name, tmp_path):
    arguments = {"num_frames": 10, "num_workers": 1, "seed": 0, name: -1}
    with pytest.raises(InputError, match=f"{name} to be at least [01], received -1"):
        record(GAME, POLICY, data_path=tmp_path, **arguments)


def test_help_shows_the_defaults(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    epsilons = "(default: lookahead 0.3, skilled 0.1)"
    for default in (epsilons, "steps of all episodes (default: 30000)"):
        assert default in text
    assert "None" not in text


def test_path_that_cannot_be_written_is_exit_code_2(tmp_path, capsys):
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as end:
        main([*FLAGS, f"--data_path={tmp_path / 'file' / 'data'}"])
    assert end.value.code == 2
    assert "the system says: Not a directory." in capsys.readouterr().err


@pytest.mark.parametrize("limit", [5_000, 300_000])
def test_full_disk_is_exit_code_2_and_leaves_nothing(limit, tmp_path):
    # A limit on a file's size stands in for the disk: the same writes fail the same way.
    process = start(
        tmp_path,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    _, errors = process.communicate()
    assert process.returncode == 2
    assert b"the system says: File too large." in errors and b"Traceback" not in errors
    assert not names_in(tmp_path)


def test_killed_recording_leaves_nothing_under_its_name_and_can_be_repeated(data_path, tmp_path):
    process = start(tmp_path, "--num_workers=1")
    read_until(lambda: holds_data(tmp_path), process)
    process.kill()
    process.communicate()  # returns when the workers, who share stderr, have ended too
    assert process.returncode == -signal.SIGKILL
    assert not directory_in(tmp_path).exists() and holds_data(tmp_path)

    assert start(tmp_path).wait() == 0
    assert contents(directory_in(tmp_path)) == contents(directory_in(data_path))
    assert names_in(tmp_path) == [directory_in(Path()).parts[-2]]


def test_interrupted_recording_says_so_and_leaves_nothing(tmp_path):
    process = start(tmp_path, "--num_frames=100000", preexec_fn=heed_interrupts)
    read_until(lambda: holds_data(tmp_path), process)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal's Ctrl-C does
    _, errors = process.communicate()
    assert process.returncode == 130
    assert errors.endswith(b"interrupted; nothing was kept\n") and b"Traceback" not in errors
    assert not names_in(tmp_path)


def test_death_of_a_worker_ends_the_recording(tmp_path):
    process = start(tmp_path, "--num_frames=100000", "--num_workers=2")
    read_until(lambda: holds_data(tmp_path), process)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(children) == 2
    os.kill(int(children[0]), signal.SIGKILL)
    _, errors = process.communicate()
    assert process.returncode == 1 and b"ended early (signal 9)" in errors
    assert not names_in(tmp_path)


def test_two_processes_that_record_the_same_wait_for_each_other(data_path, tmp_path):
    first = start(tmp_path, "--num_workers=1")
    read_until(lambda: holds_data(tmp_path), first)
    first.send_signal(signal.SIGSTOP)
    second = start(tmp_path)
    assert b"waiting for another process" in second.stderr.readline()
    assert holds_data(tmp_path) and len(names_in(tmp_path)) == 1
    first.send_signal(signal.SIGCONT)
    for process in (first, second):
        process.communicate()
        assert process.returncode == 0
    assert contents(directory_in(tmp_path)) == contents(directory_in(data_path))
    assert names_in(tmp_path) == [directory_in(Path()).parts[-2]]


def test_without_locks_two_recorders_leave_each_others_work_alone(
    data_path, tmp_path, monkeypatch, capsys
):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    root = directory_in(tmp_path).parent
    with workspace(root) as of_another:
        (of_another / "work").touch()
        assert record(*DATA_SET, tmp_path, progress=False) == directory_in(tmp_path)
        assert (of_another / "work").exists()
    assert "without locks (No locks available)" in capsys.readouterr().err
    assert contents(directory_in(tmp_path)) == contents(directory_in(data_path))


def test_without_locks_the_last_of_two_recorders_is_content_with_the_first_ones(
    data_path, tmp_path
):
    forget_locks = (
        "import errno, fcntl, sys\n"
        "def refuse(*_): raise OSError(errno.ENOLCK, 'No locks available')\n"
        "fcntl.flock = refuse\n"
        "from systems.record import main\n"
        "main(sys.argv[1:])\n"
    )
    command = [sys.executable, "-c", forget_locks, *FLAGS, f"--data_path={tmp_path}"]
    first, second = (
        subprocess.Popen([*command, "--num_workers=1"], cwd=ROOT, stderr=subprocess.PIPE)
        for _ in range(2)
    )
    read_until(lambda: holds_data(tmp_path) and len(names_in(tmp_path)) == 2, first)
    for process in (first, second):
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    assert contents(directory_in(tmp_path)) == contents(directory_in(data_path))
    assert names_in(tmp_path) == [directory_in(Path()).parts[-2]]


def test_a_worker_that_breaks_its_pipe_and_hangs_is_killed(monkeypatch):
    monkeypatch.setattr(Worker, "PATIENCE", 0.5)
    worker = Worker("tests.interrupts", "hang_without_a_pipe")
    try:
        with pytest.raises(RuntimeError, match="ended early"):
            worker.receive()
        assert worker.process.wait(timeout=10) == -signal.SIGKILL
    finally:
        worker.process.kill()


def test_what_a_worker_refuses_is_raised_in_the_parent_whatever_it_sent_meanwhile():
    worker = EpisodeWorker(RealGame("freewey"), "random", 1)
    try:
        assert worker.connection.poll(60)
        worker.begin(0, 10)
        for _ in range(2):  # the answer to every request
            with pytest.raises(InputError, match="did you mean: freeway"):
                worker.proceed()
        assert worker.process.poll() is None
    finally:
        worker.stop()


def test_workers_do_not_import_the_script_that_records(tmp_path):
    # A stage script imports TensorFlow, which takes seconds and memory.
    script = tmp_path / "script.py"
    script.write_text(
        "print('imported')\n"
        "from systems.record import record\n"
        f"record('{GAME}', '{POLICY}', 50, 0, {str(tmp_path)!r}, num_workers=2, progress=False)\n"
    )
    run = subprocess.run(
        [sys.executable, script],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=True,
    )
    assert (run.stdout, run.stderr) == (b"imported\n", b"")
