"""README and docs: generated, linked, plain, and no longer than they have to be."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from benchmarks import agent_tables, figures, pages, plots, quality_table, speed_tables, tables
from benchmarks.diagrams import DIAGRAMS
from model.operations import parameters
from systems.errors import InputError

from . import tiny

ROOT = Path(__file__).parents[1]
PAGES = pages.pages()
TABLE = re.compile(r"^<!-- table: .*?^<!-- end -->$", re.DOTALL | re.MULTILINE)
MAX_WORDS = 22  # of a sentence: twenty, and a little more for what is a list
MAX_BYTES = 1_000_000  # of a picture
# Who wrote what, and what we are compared with; what is tested is our own machines.
PROCESSORS = r"Xeon|EPYC|Zen \d|AMX|H100|H200|A100"


def by_name(page):
    return str(page.relative_to(ROOT))


def prose(page):
    """A page without code, tables and what is generated, as paragraphs."""
    text = TABLE.sub("", page.read_text())
    text = re.sub(r"^```.*?^```|^ {4}\S.*?$|^\|.*?$|<!--.*?-->", "", text, flags=re.M | re.S)
    text = re.sub(r"!?\[([^]]*)\]\([^)]*\)", r"\1", text)
    text = re.sub(r"`[^`]*`", "code", text)
    for paragraph in re.split(r"\n\s*\n", text):
        for part in re.split(r"^- |^#+ .*$", paragraph, flags=re.M):
            yield " ".join(part.split())


@pytest.mark.parametrize("page", PAGES, ids=by_name)
def test_tables_are_those_of_the_json_files(page):
    text = page.read_text()
    assert pages.rewritten(text, tables.TABLES) == text, "run `make figures`"


def test_tables_follow_the_json_files(monkeypatch, tmp_path):
    for path in pages.RESULTS.glob("*.json"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr(pages, "RESULTS", tmp_path)
    path = tmp_path / "pong_paper.json"
    result = json.loads(path.read_text())
    result["horizons"]["5"]["mse"] = result["horizons"]["5"]["mse_repeat_last"] * 0.777
    path.write_text(json.dumps(result))
    # Whoever changes a file has to say how it was made.
    with pytest.raises(InputError, match="say how it was made"):
        tables.at_a_glance()
    made = {"commit": "abc1234", "date": "2030-01-02", "machine": "an abacus"}
    path.write_text(json.dumps({**result, "made": made}))
    table = tables.at_a_glance()
    assert "\n| Pong, paper | 0.076 | 0.777 |" in table
    assert "`pong_paper.json` (commit abc1234, 2030-01-02, machine an abacus)" in table


def test_a_table_that_there_is_not_is_named():
    with pytest.raises(InputError, match=r"expected a table in .*at_a_glance.*, received no_such"):
        pages.rewritten("<!-- table: no_such -->\n<!-- end -->", tables.TABLES)


def test_every_table_and_every_file_of_figures_is_shown(monkeypatch):
    read, names = pages.read, set()

    def watched(name):
        names.add(name)
        return read(name)

    for module in (pages, tables, speed_tables, agent_tables, quality_table):
        monkeypatch.setattr(module, "read", watched)
    text = "".join(page.read_text() for page in PAGES)
    pages.rewritten(text, tables.TABLES)
    names |= {file for name in plots.drawable() for file in plots.PLOTS[name].files}
    unused = {path.name for path in pages.RESULTS.glob("*.json") if path.stem not in names}
    assert {name for name in unused if name not in text} == set()
    shown = {name.split()[0] for name in re.findall(r"^<!-- table: (.+?) -->", text, re.M)}
    assert shown == set(tables.TABLES)


def test_what_was_measured_says_how():
    for name in pages.read("provenance"):
        made = pages.provenance(name)
        assert made["command"] and made["date"] and made["seeds"]


@pytest.mark.parametrize("name", DIAGRAMS)
def test_diagrams_are_those_of_the_code(name):
    assert (figures.PICTURES / name).read_text() == DIAGRAMS[name](), "run `make figures`"


@pytest.mark.slow
def test_figures_are_written_by_one_command(tmp_path):
    figures.write_pictures(tmp_path)
    written = {path.name for path in tmp_path.iterdir()}
    assert written == {*DIAGRAMS, *plots.drawable()}
    for name in plots.drawable():
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_parameters_are_those_of_the_network():
    import keras

    from model.networks import Network

    network = Network("tiny", num_actions=3)
    network.encode(keras.ops.zeros((1, 2, 12, 12, 1)))
    trained = sum(weight.shape.num_elements() for weight in network.trainable_weights)
    assert sum(parameters(tiny.TINY, 3)) == trained


@pytest.mark.parametrize("page", PAGES, ids=by_name)
def test_links_and_pictures_are_there(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        linked = (page.parent / file).resolve() if file else page
        assert linked.exists(), target
        if anchor:
            assert anchor in anchors(linked), target


def anchors(page):
    """What GitHub calls a page's headings."""
    for head in re.findall(r"^#+ (.+)$", page.read_text(), re.M):
        yield re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-")


def test_every_picture_is_shown_and_small():
    shown = set()
    for page in PAGES:
        for target in re.findall(r"!\[[^]]*\]\(([^)\s]+)\)", page.read_text()):
            shown.add((page.parent / target).resolve())
    tracked = subprocess.run(
        ["git", "ls-files", "docs"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    pictures = {ROOT / name for name in tracked if name.endswith((".png", ".gif", ".svg"))}
    assert {path.name for path in pictures - shown if path.exists()} == set()
    assert max(path.stat().st_size for path in shown) < MAX_BYTES


def test_the_readme_is_short_and_says_what_it_is():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 150
    assert "world model" in text.splitlines()[2]
    assert "https://github.com/loliverhennigh/Compressing-Dynamical-Systems-Atari" in text
    for script in sorted(ROOT.glob("*_train*.py")):
        assert f"python {script.name} --atari_game=ms_pacman.bin\n" in text


@pytest.mark.parametrize("page", PAGES, ids=by_name)
def test_dates_commits_and_processors_stand_below_tables(page):
    lines = [line for line in page.read_text().splitlines() if not line.startswith(pages.SOURCE)]
    text = "\n".join(lines)
    if page.name == "performance.md":  # where the letters are explained
        text = re.sub(r"<!-- table: machines -->.*?<!-- end -->", "", text, flags=re.S)
    assert re.findall(r"\b20\d\d-\d\d(?:-\d\d)?\b", text) == []
    assert re.findall(PROCESSORS, text) == []
    hashes = re.findall(r"\b(?=[0-9a-f]*\d)(?=[0-9a-f]*[a-f])[0-9a-f]{7,40}\b", text)
    assert hashes == []


@pytest.mark.parametrize("page", PAGES, ids=by_name)
def test_prose_is_plain(page):
    for paragraph in prose(page):
        for sentence in re.split(r"(?<=[.!?:;])(?:\*\*)?\s+", paragraph):
            assert len(sentence.split()) <= MAX_WORDS, sentence
        row = re.search(r"\d[\d.]*(?:, \d[\d.]*){2,}|\d, \d[\d.]* and \d", paragraph)
        assert not row or page.name == "data.md", paragraph
    if page.name in ("results.md", "experiments.md"):
        # What is in a table is not said again.
        assert re.findall(r"\b\d+\.\d+", " ".join(prose(page))) == []
