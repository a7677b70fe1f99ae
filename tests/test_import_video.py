"""Videos of play and a table of actions become a data set."""

import av
import numpy as np
import pytest

from systems.dataset import Dataset
from systems.import_video import import_videos, main


def write_video(path, shades, size=(48, 32)):
    """A video whose frame i is grey of level shades[i]."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264rgb", rate=10, options={"qp": "0"})
        stream.width, stream.height, stream.pix_fmt = *size, "rgb24"
        for shade in shades:
            image = np.full((size[1], size[0], 3), shade, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


def shades_of(dataset, episode):
    count = int(dataset.lengths[episode]) + 1
    return dataset.read(episode, 0, count, (*dataset.frame_shape[:2], 3))["frames"][:, 0, 0, 0]


def test_each_line_belongs_to_a_frame_and_an_empty_action_ends_an_episode(tmp_path):
    video = write_video(tmp_path / "a.mkv", [0, 10, 20, 30, 40, 50])
    table = tmp_path / "a.csv"
    table.write_text(
        "action,reward,termination\nleft,0.5,0\nright,0,1\n,,\nleft,0,\nleft,-1,0\n,,\n"
    )
    dataset = Dataset(import_videos([(video, table)], "my_game", tmp_path / "data"))
    assert dataset.game == "my_game"
    assert dataset.action_meanings == ["left", "right"]
    assert [list(a) for a in dataset.actions] == [[0, 1], [0, 0]]
    assert [list(r) for r in dataset.rewards] == [[0.5, 0], [0, -1]]
    assert [list(t) for t in dataset.terminations] == [[False, True], [False, False]]
    np.testing.assert_array_equal(shades_of(dataset, 0), [0, 10, 20])
    np.testing.assert_array_equal(shades_of(dataset, 1), [30, 40, 50])


def test_an_empty_line_is_an_empty_action(tmp_path):
    video = write_video(tmp_path / "a.mkv", [0, 10, 20, 30])
    (tmp_path / "a.csv").write_text("action\n1\n\n0\n\n")
    dataset = Dataset(import_videos([(video, tmp_path / "a.csv")], "g", tmp_path / "data"))
    assert [list(a) for a in dataset.actions] == [[1], [0]]


@pytest.mark.parametrize("lines", [3, 4])
def test_an_action_without_a_frame_after_it_is_left_out(tmp_path, lines):
    video = write_video(tmp_path / "a.mkv", [0, 10, 20, 30])
    table = tmp_path / "a.csv"
    table.write_text("action\n" + "2\n" * lines)
    dataset = Dataset(import_videos([(video, table)], "g", tmp_path / "data"))
    assert [list(a) for a in dataset.actions] == [[2, 2, 2]]
    assert dataset.action_meanings == ["0", "1", "2"]
    np.testing.assert_array_equal(shades_of(dataset, 0), [0, 10, 20, 30])


def test_numbers_are_read_with_zeros_before_them(tmp_path):
    video = write_video(tmp_path / "a.mkv", [0, 10, 20, 30])
    (tmp_path / "a.csv").write_text("action\n00\n02\n2\n\n")
    dataset = Dataset(import_videos([(video, tmp_path / "a.csv")], "g", tmp_path / "data"))
    assert [list(a) for a in dataset.actions] == [[0, 2, 2]]
    assert dataset.action_meanings == ["0", "1", "2"]


def test_what_is_there_already_is_said_to_be_until_it_is_replaced(tmp_path, capsys):
    video = write_video(tmp_path / "a.mkv", [0, 10, 20])
    table = tmp_path / "a.csv"
    command = [str(video), str(table), f"--data_path={tmp_path / 'data'}"]
    for action, flags, said in (
        ("left", [], "1 episodes, 2 steps"),
        ("right", [], "is there already, nothing to do; --overwrite imports it again"),
        ("right", ["--overwrite"], "actions right"),
    ):
        table.write_text(f"action\n{action}\n{action}\n")
        main([*command, *flags])
        output = capsys.readouterr().out
        assert said in output and ("episodes" in output) == ("nothing to do" not in output)


def test_several_videos_make_one_data_set_of_shrunk_frames(tmp_path, capsys):
    files = []
    for name in "ab":
        files.append(str(write_video(tmp_path / f"{name}.mkv", [5, 6, 7], size=(64, 128))))
        table = tmp_path / f"{name}.csv"
        table.write_text(f"\ufeffaction, reward\n{name}, 1\n{name}, 0\n")
        files.append(str(table))
    main([*files, "--game=two", f"--data_path={tmp_path}", "--max_height=64"])
    assert "2 episodes, 4 steps, frames of (64, 32, 3), actions a, b" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("move\n1\n", "a column named action"),
        ("action\n1\n1\n1\n1\n1\n", "5 lines and 3 frames"),
        ("action\n1\n", "1 lines and more frames"),
        ("action,reward\n1,much\n", "a number as reward in line 2"),
        ("action,reward\n1,nan\n", "a number as reward in line 2"),
        ("action,termination\n1,1\n1,0\n", "no action after a termination, received '1' in line 3"),
        ("action\n\n\n\n", "expected an action in one"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_left(tmp_path, capsys, table, message):
    video = write_video(tmp_path / "a.mkv", [0, 10, 20])
    (tmp_path / "a.csv").write_text(table)
    with pytest.raises(SystemExit) as end:
        main([str(video), str(tmp_path / "a.csv"), f"--data_path={tmp_path / 'data'}"])
    assert end.value.code == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.rglob("metadata.json"))


def test_what_is_no_video_is_refused(tmp_path, capsys):
    for name in ("a.mp4", "missing.mp4"):
        (tmp_path / "a.mp4").write_text("no video")
        (tmp_path / "a.csv").write_text("action\n1\n")
        with pytest.raises(SystemExit) as end:
            main([str(tmp_path / name), str(tmp_path / "a.csv"), f"--data_path={tmp_path / 'd'}"])
        assert end.value.code == 2
        assert "expected a video, received" in capsys.readouterr().err


def test_a_video_without_frames_is_refused(tmp_path, capsys):
    with av.open(str(tmp_path / "a.avi"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        container.start_encoding()
    (tmp_path / "a.csv").write_text("action\n1\n")
    with pytest.raises(SystemExit) as end:
        main([str(tmp_path / "a.avi"), str(tmp_path / "a.csv"), f"--data_path={tmp_path / 'd'}"])
    assert end.value.code == 2
    assert "a.avi, which holds no frame that can be read" in capsys.readouterr().err
