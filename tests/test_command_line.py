"""One command line for all entry points: names, hyphens, hints, examples, lists."""

import importlib
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from systems import version
from systems.arguments import PLAYERS, Parser
from systems.atari import game_name, game_names
from systems.policies import POLICIES
from utils.training.command_line import parse
from utils.training.command_line import parser as stage_parser

from .test_start import STAGES, TOOLS, start

ROOT = Path(__file__).parents[1]
MODULES = ["systems.record", "systems.import_video", "systems.controlled", "systems.flicker"]
MODULES += ["utils.watching.summary", "utils.training.ship", "benchmarks", "benchmarks.figures"]
MODULES += ["benchmarks.clips", "benchmarks.curve", "benchmarks.players", "systems.join"]
ENTRIES = [*STAGES, *TOOLS, *MODULES]


def parser_of(entry):
    if entry in STAGES:
        return stage_parser(importlib.import_module(entry.removesuffix(".py")).STAGE, "")
    name = "benchmarks.__main__" if entry == "benchmarks" else entry.removesuffix(".py")
    return importlib.import_module(name).parser()


def flags_of(parser):
    """Every flag with its help, without --help."""
    shown = [action for action in parser._actions if action.option_strings]
    return {action.option_strings[-1]: action for action in shown if action.dest != "help"}


@pytest.mark.parametrize("entry", ENTRIES)
def test_the_examples_of_help_are_commands_that_work(entry):
    parser = parser_of(entry)
    text = parser.format_help()
    shown = text[text.index("\nexamples:\n") :].replace("\\\n", "").splitlines()[2:]
    assert len(shown) >= (1 if entry in MODULES else 2)
    for line in filter(None, shown):
        python, *words = shlex.split(line, comments=True)
        script = words.pop(0)
        assert python == "python"
        assert (words.pop(0) if script == "-m" else script) == entry
        if words != ["--list_games"]:
            parser.parse_args(words)
    assert max(map(len, "\n".join(parser.examples).splitlines())) <= 100


def parsed(words):
    """The name of the entry point that a command runs, once its flags are parsed; None if other."""
    entry = words[1] if words[0] == "-m" else words[0]
    if entry not in ENTRIES:
        return None
    parser_of(entry).parse_args(words[words.index(entry) + 1 :])
    return entry


def commands_in(document):
    """What Python is told to run in a Markdown file's code blocks: words, a command each."""
    fenced = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
    page = document.read_text()
    blocks = [block for language, block in fenced.findall(page) if not language]
    blocks += re.findall(r"^ {4}.*\n", fenced.sub("", page), re.MULTILINE)
    text = "".join(blocks).replace("\\\n", "")
    for command in re.findall(r"^[^#\n]*\bpython (.*?)&?$", text, re.MULTILINE):
        if "benchmarks.child" not in command:  # whose argument is JSON on several lines
            yield shlex.split(command, comments=True)


PAGES = {"README.md": 8, "docs/tools.md": 11, "docs/data.md": 4, "docs/environments.md": 4}
PAGES |= {"docs/performance.md": 5, "docs/results.md": 2, "docs/guide.md": 0, "docs/faq.md": 0}


@pytest.mark.parametrize(("name", "least"), PAGES.items())
def test_the_documents_commands_have_flags_that_there_are(name, least):
    commands = [words for words in commands_in(ROOT / name) if words[:2] != ["-m", "pip"]]
    assert len(commands) >= least
    assert [words for words in commands if not parsed(words)] == []


@pytest.mark.parametrize(
    ("goal", "runs"),
    [
        ("train GAME=pong VARIANT=compression", 5),
        ("train VARIANT=paper MODEL=lstm_210x160x3", 5),
        ("demo", 6),
        ("results-pong", 10),
        ("clips", 7),
        ("full-frames", 13),
        ("agent GAME=pong", 2),
        ("agent-again GAME=pong", 8),
        ("doom", 9),
    ],
)
def test_make_runs_commands_that_work(goal, runs, tmp_path):
    # Everything but what runs for hours: Python itself.
    log, python = tmp_path / "log", tmp_path / "python"
    python.write_text(f'#!/bin/sh\necho "$@" >> {log}\n')
    python.chmod(0o755)
    make = ["make", f"BIN={tmp_path}", "--old-file=.venv/installed", *goal.split()]
    subprocess.run(make, cwd=ROOT, check=True, capture_output=True)
    ran = [line.split() for line in log.read_text().splitlines() if "-m pip" not in line]
    assert len(ran) == runs
    assert all(map(parsed, ran))
    if goal.startswith("train"):
        variant = "compress" if "pong" in goal else "paper"
        stages = [name for name in STAGES if name.startswith(variant)]
        *trained, summary = ran
        assert [script for script, *_ in trained] == stages
        for _, *flags in trained:
            assert "--policy=persistent:0.5,skilled:0.5" in flags
        # It ends with a report on where the last stage has written to.
        last = importlib.import_module(stages[-1].removesuffix(".py"))
        config = parse(last.STAGE, trained[-1][1:])
        assert summary == ["-m", "utils.watching.summary", str(config.directory.parent)]


def test_make_train_refuses_another_variant():
    make = ["make", "--dry-run", "--old-file=.venv/installed", "train", "VARIANT=compress"]
    done = subprocess.run(make, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "expected VARIANT=paper or VARIANT=compression, received compress" in done.stderr


@pytest.mark.parametrize("entry", ENTRIES)
def test_every_flag_is_explained_and_spelled_alike(entry):
    for flag, action in flags_of(parser_of(entry)).items():
        assert action.help and re.fullmatch(r"--[a-z]+(_[a-z]+)*", flag)
    text = parser_of(entry).format_help()
    assert "(default: None)" not in text and "(default: False)" not in text
    assert "==SUPPRESS==" not in text


def test_one_thing_has_one_name_and_one_name_is_one_kind_of_thing():
    kinds = {}
    for entry in ENTRIES:
        for flag, action in flags_of(parser_of(entry)).items():
            kind = getattr(action.type, "__qualname__", None), action.metavar, bool(action.choices)
            kinds.setdefault(flag, set()).add(kind)
    # How far ahead: one number, or those to report. Shipped weights: of a game, or of this one.
    assert len(kinds.pop("--horizon")) == 2
    assert len(kinds.pop("--pretrained")) == 2
    assert {flag: found for flag, found in kinds.items() if len(found) > 1} == {}
    # What was called otherwise, here or there.
    old = {"--output", "--episodes", "--horizons", "--data", "--dataset_path", "--checkpoint_dir"}
    assert not old & set(kinds)


@pytest.mark.parametrize("entry", [STAGES[0], "evaluate.py", "plan.py", "systems.record"])
def test_hyphens_are_taken_for_underscores(entry):
    parser = parser_of(entry)
    required = [] if entry in (STAGES[0], "systems.record") else ["--checkpoint=a-b"]
    flag = next(flag for flag in flags_of(parser) if flag.startswith("--num_"))
    hyphens = flag.replace("_", "-").replace("--", "--", 1)
    expected = parser.parse_args([*required, f"{flag}=77"])
    assert expected != parser.parse_args(required)
    for given in ([f"{hyphens}=77"], [hyphens, "77"], [flag, "77"]):
        assert parser.parse_args([*required, *given]) == expected


def test_values_stay_as_they_are():
    parser = Parser("", [])
    parser.add_argument("--some_name")
    parser.add_argument("rest", nargs="*")
    for value in ("--some-name x", "-1", "a-b", "-", ""):
        assert parser.parse_args(["--some-name", value]).some_name == value
    assert parser.parse_args(["--some-name=--some-name"]).some_name == "--some-name"
    assert parser.parse_args(["--", "--some-name", "-x"]).rest == ["--some-name", "-x"]


@pytest.mark.parametrize(
    ("entry", "given", "meant"),
    [
        ("evaluate.py", "--chekpoint=x", "--checkpoint?"),
        ("evaluate.py", "-checkpoint", "--checkpoint?"),
        ("evaluate.py", "--horizons=5", "--horizon?"),
        ("plan.py", "--num-episode=5", "--num_episodes?"),
        ("plan.py", "--episodes=5", "--num_episodes"),
        ("generate_video.py", "--check", "--checkpoint?"),
        ("systems.record", "--atarigame=pong", "--atari_game?"),
        (STAGES[0], "--lr=1", "see --help"),
        (STAGES[0], "--max_step=1", "--max_steps?"),
    ],
)
def test_mistyped_flags_are_told_what_they_may_mean(entry, given, meant, capsys):
    with pytest.raises(SystemExit) as end:
        parser_of(entry).parse_args([given])
    assert end.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert f"error: unknown flag {given.partition('=')[0]}" in last and meant in last


def test_help_is_shown_beside_a_mistyped_flag(capsys):
    with pytest.raises(SystemExit) as end:
        parser_of("plan.py").parse_args(["--mistyped", "--help"])
    assert end.value.code == 0
    assert "--simulator" in capsys.readouterr().out


@pytest.mark.parametrize("entry", [*STAGES, "systems.record"])
def test_the_games_are_listed_one_a_line(entry, capsys):
    with pytest.raises(SystemExit) as end:
        parser_of(entry).parse_args(["--list-games"])
    assert end.value.code == 0
    listed = capsys.readouterr().out.splitlines()
    assert listed == game_names() == sorted(listed)
    assert len(listed) == 104 and "pong" in listed and "combat" not in listed
    assert [game_name(game) for game in listed] == listed


@pytest.mark.parametrize("entry", [STAGES[0], "systems.record"])
def test_every_player_is_explained(entry):
    text = parser_of(entry).format_help()
    assert PLAYERS in text
    for policy in POLICIES:
        assert f"\n  {policy} " in PLAYERS


@pytest.mark.parametrize("entry", ENTRIES)
def test_the_version_is_told(entry, capsys):
    with pytest.raises(SystemExit) as end:
        parser_of(entry).parse_args(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out.startswith(f"{version.NAME} {version.VERSION}")


def test_the_commit_is_that_of_the_projects_own_checkout(tmp_path):
    def git(*command):
        own = ["-c", "user.name=a", "-c", "user.email=a@b", "-C", str(tmp_path)]
        done = subprocess.run(["git", *own, *command], check=True, capture_output=True, text=True)
        return done.stdout.strip()

    assert version.commit(tmp_path) is None
    git("init")
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "file").touch()
    git("add", ".")
    git("commit", "-m", "first")
    git("tag", "v1")
    assert version.commit(tmp_path) == git("rev-parse", "--short", "HEAD")
    # Unpacked in somebody else's repository it has none.
    assert version.commit(tmp_path / "inside") is None
    (tmp_path / "inside" / "file").write_text("changed")
    assert version.commit(tmp_path).endswith("-dirty")


def test_a_parser_reads_this_process_own_command_line(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["x", "--num-frames=5"])
    assert parser_of("systems.record").parse_args().num_frames == 5


def test_the_2016_flags_and_hyphens_make_one_configuration():
    stage = importlib.import_module("paper_seq_1_train").STAGE
    given = parse(stage, ["--atari-game=ms_pacman.bin", "--max-steps=7"])
    assert given == parse(stage, ["--atari_game=ms_pacman.bin", "--max_steps=7"])


def test_full_frames_pretrain_two_fifths_of_the_steps():
    stage = importlib.import_module("paper_seq_3_train").STAGE
    usual = parse(stage, ["--model=lstm_84x84x1"]).pretraining_steps
    assert usual == stage.pretraining_steps == parse(stage, []).pretraining_steps / 0.4
    assert parse(stage, ["--pretraining_steps=7"]).pretraining_steps == 7
    assert parse(stage, ["--pretrained", "--model=lstm_84x84x1"]).pretraining_steps == 0


def test_the_keys_of_the_page_are_named():
    text = parser_of("play.py").format_help()
    script = (ROOT / "utils" / "acting" / "web" / "play.js").read_text()
    keys = re.findall(r"(\w): \"\w+\"", re.search(r"COMMANDS = {(.*?)}", script)[1])
    assert len(keys) >= 6
    for key in keys:
        assert re.search(rf"^  {key.upper()}  ", text, re.MULTILINE)
    assert "arrows, space" in text


@pytest.mark.slow
def test_lists_can_be_piped_into_what_reads_a_line():
    command = f"{sys.executable} -m systems.record --list_games | head -1"
    done = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "adventure\n", "")
    assert start("paper_seq_1_train.py", "--version").returncode == 0
