"""Data sets that are joined: all episodes of all of them, and no others."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from gymnasium import spaces

from systems.controlled import find_controlled
from systems.dataset import CONTROLLED, Dataset
from systems.errors import InputError
from systems.import_video import import_videos
from systems.join import join, main
from systems.metadata import METADATA
from systems.record import record

from .test_import_video import write_video
from .test_observations import STEPS, Painter, box
from .test_observations import record as record_by_minari

pytestmark = pytest.mark.slow
SHAPE = 84, 84, 1


def recorded(path, policy="persistent", num_frames=60, seed=1, **more):
    return record("freeway", policy, num_frames, seed, path, 1, False, **more)


@pytest.fixture
def sets(tmp_path):
    return [recorded(tmp_path), recorded(tmp_path, "random", 40, 2)]


def test_all_episodes_are_there_in_order(sets, tmp_path, capsys):
    output = tmp_path / "freeway" / "round-2-v1"
    given = [f"--dataset={sets[0]}", f"--dataset={sets[1].parent}", "--name=round-2"]
    main([*given, f"--data_path={tmp_path}"])
    assert f"wrote {output}/data" in capsys.readouterr().out
    joined, parts = Dataset(output), [Dataset(directory) for directory in sets]
    assert joined.names == ["episode_0", "episode_1"]
    assert joined.lengths.tolist() == [60, 40]
    for number, part in enumerate(parts):
        np.testing.assert_array_equal(joined.actions[number], part.actions[0])
        assert joined.no_ops[number] == part.no_ops[0]
        ours, theirs = (
            one.read(episode, 3, 5, SHAPE)["frames"]
            for one, episode in ((joined, number), (part, 0))
        )
        np.testing.assert_array_equal(ours, theirs)
    with h5py.File(joined.path) as file:
        assert [int(file[name].attrs["id"]) for name in joined.names] == [0, 1]
    about = joined.metadata
    assert about["joined"] == [part.metadata["dataset_id"] for part in parts]
    assert about["total_steps"] == 100 and about["total_episodes"] == 2
    assert about["dataset_id"] == "freeway/round-2-v1"
    # It is played again like any other, and the parts are left as they were.
    assert not (joined.directory / CONTROLLED).exists()
    find_controlled(output, num_workers=1, progress=False)
    assert not (parts[0].directory / CONTROLLED).exists()


def test_controlled_pixels_are_joined_where_all_have_them(sets, tmp_path):
    for directory in sets:
        find_controlled(directory, num_workers=1, progress=False)
    joined = Dataset(join(sets, "joined", tmp_path))
    for number, directory in enumerate(sets):
        ours, theirs = (
            one.read_controlled(episode, range(20, 30), SHAPE)
            for one, episode in ((joined, number), (Dataset(directory), 0))
        )
        np.testing.assert_array_equal(ours, theirs)


def test_a_colour_is_known_where_any_data_set_knows_it(sets, tmp_path):
    path = sets[0] / METADATA
    metadata = json.loads(path.read_text())
    known = [index for index, colour in enumerate(metadata["palette"]) if colour]
    for name in ("palette", "grey_palette"):
        metadata[name][known[0]] = None
    path.write_text(json.dumps(metadata))
    joined = Dataset(join(sets, "joined", tmp_path))
    assert joined.metadata["palette"][known[0]] == Dataset(sets[1]).metadata["palette"][known[0]]
    metadata["palette"][known[1]] = [1, 2, 3]
    path.write_text(json.dumps(metadata))
    with pytest.raises(InputError, match="expected one palette"):
        join(sets, "again", tmp_path)
    assert not (tmp_path / "freeway" / "again-v1").exists()


def test_sets_of_other_videos_are_joined_and_all_videos_named(tmp_path):
    sets = []
    for name in "abc":
        (tmp_path / f"{name}.csv").write_text("action\n1\n0\n")
        pair = write_video(tmp_path / f"{name}.mkv", [5, 6, 7]), tmp_path / f"{name}.csv"
        sets.append(import_videos([pair], "g", tmp_path, name))
    both = Dataset(join(sets[:2], "both", tmp_path))
    assert both.metadata["videos"] == ["a.mkv", "b.mkv"]
    joined = Dataset(join([both.directory, sets[2]], "joined", tmp_path))
    assert joined.metadata["videos"] == ["a.mkv", "b.mkv", "c.mkv"]
    assert joined.lengths.tolist() == [2, 2, 2]


def test_sets_of_several_images_are_joined_with_all_of_them(tmp_path, monkeypatch, capsys):
    space = spaces.Dict({"front": box(40, 36), "map": box(40, 36)})
    sets = [
        record_by_minari(tmp_path / name, monkeypatch, Painter(space), episodes=1)
        for name in ("a", "b")
    ]
    given = [*(f"--dataset={path}" for path in sets), f"--data_path={tmp_path}", "--name=both"]
    with pytest.raises(SystemExit):
        main(given)
    assert "Name one of them by --observation_key" in capsys.readouterr().err
    main([*given, "--observation_key=map"])
    output = Path(capsys.readouterr().out.split()[-1])
    for key in ("front", "map"):
        assert Dataset(output, key).lengths.tolist() == [STEPS, STEPS]


def test_a_game_without_a_name_is_called_by_the_directory_of_the_data_set(
    sets, tmp_path, monkeypatch
):
    for path in sets:
        metadata = json.loads((path / METADATA).read_text())
        del metadata["game"]
        (path / METADATA).write_text(json.dumps(metadata))
    home = tmp_path / "home"
    home.mkdir()
    sets[0].parent.rename(home / "nested")
    sets[1].rename(home / "flat")
    monkeypatch.chdir(home)
    for name, order in (("one", ["nested", "flat"]), ("two", ["flat", "nested"])):
        output = join([Path(each) for each in order], name, tmp_path / "data")
        assert output == tmp_path / "data" / "home" / f"{name}-v1" / "data"
        assert Dataset(output).metadata["dataset_id"] == f"home/{name}-v1"


def test_what_cannot_be_joined_is_refused(sets, tmp_path):
    with pytest.raises(InputError, match="two data sets or more, received 1"):
        join(sets[:1], "joined", tmp_path)
    harder = recorded(tmp_path, mode=1)
    with pytest.raises(InputError, match="but mode is 0 in .* and 1 in"):
        join([sets[0], harder], "joined", tmp_path)
    pong = record("pong", "random", 20, 1, tmp_path, 1, False)
    with pytest.raises(InputError, match="expected data sets of one game"):
        join([sets[0], pong], "joined", tmp_path)
    assert not (tmp_path / "freeway" / "joined-v1").exists()
    with pytest.raises(InputError, match="expected a name of letters"):
        join(sets, "a/b", tmp_path)
    join(sets, "joined", tmp_path)
    with pytest.raises(InputError, match="expected a new --name, received joined"):
        join(sets, "joined", tmp_path)
