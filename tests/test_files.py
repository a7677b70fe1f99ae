"""Files appear whole or not at all, and locks keep processes apart."""

import argparse
import errno
import fcntl
import json
import os
import shlex
import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import filelock
import pytest

from systems.errors import InputError, check_writable, user_path
from systems.files import (
    lock,
    num_cores,
    refusals_explained,
    remove,
    system_reason,
    workspace,
    write_json,
    write_whole,
)

ROOT = Path(__file__).parents[1]

WRITER = """
import sys
import tempfile
from pathlib import Path
from systems.files import write_whole

def write(partial):
    with partial.open("w") as file:
        file.write(sys.argv[2] * 5)
        file.flush()
        print("half", flush=True)
        sys.stdin.readline()
        file.write(sys.argv[2] * 5)

write_whole(Path(sys.argv[1]), write)
"""

HOLDER = """
import sys
import tempfile
from pathlib import Path
from systems.files import workspace

with workspace(Path(sys.argv[1])) as partial:
    (partial / "work").touch()
    print(partial.name, flush=True)
    sys.stdin.readline()
"""


def start(program, *arguments) -> subprocess.Popen:
    """Starts a program that says when it is half-way and then waits for a line."""
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def go_on(process):
    process.communicate("\n")
    assert process.returncode == 0


def without_locks(number):
    """A file system's answer to `fcntl.flock` if it has no locks."""

    def refuse(*_):
        raise OSError(number, os.strerror(number))

    return refuse


def test_two_processes_that_write_one_file_do_not_write_into_one_another(tmp_path):
    path = tmp_path / "result.json"
    first, second = start(WRITER, path, "a"), start(WRITER, path, "b")
    assert first.stdout.readline() == second.stdout.readline() == "half\n"
    assert not path.exists()
    go_on(second)
    assert path.read_text() == "b" * 10
    go_on(first)
    assert path.read_text() == "a" * 10
    assert os.listdir(tmp_path) == ["result.json"]


def test_a_file_has_its_name_on_the_disk(tmp_path, monkeypatch):
    """The directory is synced after the file, because the name is in the directory."""
    synced, sync = [], os.fsync

    def record(descriptor):
        status = os.fstat(descriptor)
        named = (tmp_path / "file").exists()
        synced.append(("directory" if stat.S_ISDIR(status.st_mode) else "file", named))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    write_whole(tmp_path / "file", lambda partial: partial.write_text("content"))
    assert synced == [("file", False), ("directory", True)]


def test_what_fails_half_way_leaves_what_was_there(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("before")

    def fail(partial):
        assert partial.suffix == ".txt"
        partial.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(InputError, match=r"file\.txt, but the system says: No space left"):
        write_whole(path, fail)
    assert path.read_text() == "before"
    assert os.listdir(tmp_path) == ["file.txt"]


def test_json_holds_no_nan(tmp_path):
    content = {"loss": float("nan"), "more": [1.5, float("-inf"), {"deep": (float("inf"), 2)}]}
    write_json(tmp_path / "file.json", content)
    text = (tmp_path / "file.json").read_text()
    assert "NaN" not in text and "Infinity" not in text
    assert json.loads(text) == {"loss": None, "more": [1.5, None, {"deep": [None, 2]}]}


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        # As h5py raises it, with and without a number.
        (
            OSError(28, "Can't write (file write failed: error message = 'File too large', b = 1)"),
            "File too large",
        ),
        (RuntimeError("Can't close (error message = 'File too large', b = 1)"), "File too large"),
        # As TensorFlow raises it.
        (RuntimeError("a.index; No space left on device"), "a.index; No space left on device"),
        (RuntimeError("a process ended early"), None),
        (ValueError("expected 3 channels"), None),
    ],
)
def test_only_the_systems_refusals_are_called_so(error, reason, tmp_path):
    assert system_reason(error) == reason
    expected = InputError if reason else type(error)
    with pytest.raises(expected) as caught, refusals_explained(tmp_path / "file"):
        raise error
    assert (f"the system says: {reason}." in str(caught.value)) == bool(reason)


def test_what_is_removed_is_not_what_a_link_points_to(tmp_path):
    kept = tmp_path / "kept"
    (kept / "inner").mkdir(parents=True)
    for name in ("link", "directory", "file"):
        path = tmp_path / name
        if name == "link":
            path.symlink_to(kept)
        elif name == "directory":
            (path / "more").mkdir(parents=True)
        else:
            path.touch()
        remove(path)
    assert os.listdir(tmp_path) == ["kept"] and os.listdir(kept) == ["inner"]


def test_a_lock_that_another_process_holds_is_refused_until_that_is_killed(tmp_path):
    holder = start(HOLDER, tmp_path / "data")
    holder.stdout.readline()
    path = tmp_path / ".data.lock"
    with pytest.raises(filelock.Timeout), lock(path):
        pass
    holder.kill()
    holder.communicate()
    with lock(path) as held:
        assert held


def test_a_second_process_waits_for_the_first_and_says_so(tmp_path):
    first = start(HOLDER, tmp_path / "data")
    name = first.stdout.readline().strip()
    second = start(HOLDER, tmp_path / "data")
    said = second.stderr.readline()
    assert said == f"waiting for another process that is making {tmp_path / 'data'}\n"
    assert (tmp_path / name / "work").exists()
    go_on(first)
    assert second.stdout.readline().strip() != name
    go_on(second)
    assert os.listdir(tmp_path) == [".data.lock"]


def test_the_next_process_removes_what_a_killed_one_left(tmp_path):
    killed = start(HOLDER, tmp_path / "data")
    name = killed.stdout.readline().strip()
    killed.kill()
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL and (tmp_path / name / "work").exists()
    others = (tmp_path / f"{name}-more", tmp_path / ".partial-0123abcd-other-data")
    for other in others:
        other.mkdir()
    with workspace(tmp_path / "data") as partial:
        assert not (tmp_path / name).exists()
        assert partial.is_dir() and not list(partial.iterdir())
        assert all(other.exists() for other in others)
    assert not partial.exists()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS])
def test_nothing_is_cleared_without_a_lock(number, tmp_path, monkeypatch, capsys):
    owner = start(HOLDER, tmp_path / "data")
    name = owner.stdout.readline().strip()
    monkeypatch.setattr(fcntl, "flock", without_locks(number))
    with workspace(tmp_path / "data") as partial:
        assert partial.name != name and (tmp_path / name / "work").exists()
    assert (tmp_path / name / "work").exists()
    assert "a file system without locks" in capsys.readouterr().err
    with lock(tmp_path / "lock") as held:
        assert not held
    go_on(owner)


def test_a_directory_that_cannot_be_written_is_no_missing_lock(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", without_locks(errno.EIO))
    with pytest.raises(OSError, match="Input/output"), lock(tmp_path / "lock"):
        pass


def test_cores_are_those_that_the_process_may_use():
    ask = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); "
        "from systems.files import num_cores; from systems.record import DEFAULT_NUM_WORKERS; "
        "print(num_cores(), DEFAULT_NUM_WORKERS)"
    )
    asked = subprocess.run([sys.executable, "-c", ask], cwd=ROOT, capture_output=True, check=True)
    assert asked.stdout == b"1 1\n"
    assert num_cores() == len(os.sched_getaffinity(0))


def test_a_link_stays_and_what_it_names_is_replaced(tmp_path):
    target, link = tmp_path / "there" / "results.json", tmp_path / "link.json"
    target.parent.mkdir()
    link.symlink_to(target)
    for content in ({"a": 1}, {"a": 2}):  # the first time it names nothing
        check_writable(link)
        write_json(link, content)
        assert link.is_symlink() and json.loads(target.read_text()) == content
    assert os.listdir(target.parent) == ["results.json"]


def test_devices_and_pipes_are_written_into(tmp_path):
    null = Path("/dev/null")
    check_writable(null)
    write_json(null, {"a": 1})
    assert stat.S_ISCHR(null.stat().st_mode)
    pipe = tmp_path / "pipe.json"
    os.mkfifo(pipe)
    check_writable(pipe)
    reader = subprocess.Popen(["cat", str(pipe)], stdout=subprocess.PIPE, text=True)
    write_json(pipe, {"a": 1})
    assert json.loads(reader.communicate()[0]) == {"a": 1}
    assert stat.S_ISFIFO(pipe.stat().st_mode)


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="Linux has it")
def test_files_below_dev_are_replaced_like_others():
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        path = Path(directory, "results.json")
        for content in ({"a": 1}, {"a": 2}):
            check_writable(path)
            write_json(path, content)
            assert json.loads(path.read_text()) == content


def test_what_is_printed_and_written_to_stdout_both_arrive(tmp_path):
    code = (
        "from pathlib import Path; from systems.errors import say; from systems.files import *;"
        "say('before'); write_json(Path('/dev/stdout'), {'a': 1}); say('after')"
    )
    with open(tmp_path / "output", "w") as output:
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=output, check=True)
    assert (tmp_path / "output").read_text() == 'before\n{\n  "a": 1\n}\nafter\n'


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes device nodes")
def test_a_device_of_ones_own_stays_and_a_disk_is_refused(tmp_path):
    null, disk = tmp_path / "null", tmp_path / "disk"
    os.mknod(null, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    write_json(null, {"a": 1})
    assert stat.S_ISCHR(null.stat().st_mode)
    os.mknod(disk, 0o666 | stat.S_IFBLK, os.makedev(7, 200))
    with pytest.raises(InputError, match="expected a file that can be written"):
        check_writable(disk)


def test_a_home_directory_is_found_behind_an_equals_sign(monkeypatch):
    monkeypatch.setenv("HOME", "/somewhere")
    assert user_path("~/data") == Path("/somewhere/data")
    with pytest.raises(argparse.ArgumentTypeError, match="no_such_user"):
        user_path("~no_such_user/data")


def test_work_goes_on_where_nobody_reads_any_more(tmp_path):
    code = (
        "import sys; from pathlib import Path; from systems.errors import say;"
        "[say(f'line {i}') for i in range(5000)]; Path(sys.argv[1]).write_text('done')"
    )
    command = f"{sys.executable} -c {shlex.quote(code)} {tmp_path / 'file'} | head -1"
    done = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("line 0\n", "")
    assert (tmp_path / "file").read_text() == "done"
