"""What the pages in docs/ show: settings that are valid, options that exist, links that lead
somewhere, programs that run. What other tests run already (embedding, your own data) is theirs."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from dataclasses import fields
from pathlib import Path
from runpy import run_path

import click
import pytest

from gossip.cli import main as gossip
from gossip.config import Config, check, settle
from gossip.target import build, load
from sims.cli import main as simulator
from sims.experiment import ALGORITHMS, ATTACKS, PRESETS, Experiment
from sims.experiment import check as described
from sims.sweep import SweepConfig
from sims.topology import KINDS

ROOT = Path(__file__).parents[2]
DOCS, EXAMPLES = ROOT / "docs", ROOT / "examples"
PAGES = sorted(DOCS.glob("*.md"))
COMMANDS = {"gossip": gossip, "gossip-sim": simulator}


def blocks(page: Path, *languages: str) -> list[str]:
    return re.findall(rf"^```(?:{'|'.join(languages)})\n(.*?)^```", page.read_text(), re.M | re.S)


def shown(page: Path) -> list[str]:
    """The command lines of a page, without what they print."""
    found = []
    for block in blocks(page, "sh", "console"):
        lines = block.replace("\\\n", " ").splitlines()
        prompted = [line[2:] for line in lines if line.startswith("$ ")]
        found += prompted or lines
    return found


TOML = [(page.name, block) for page in PAGES for block in blocks(page, "toml")]
LINES = [(page.name, line) for page in PAGES for line in shown(page)]


@pytest.mark.parametrize(("page", "text"), TOML)
def test_settings_and_descriptions_are_valid(page: str, text: str) -> None:
    table = tomllib.loads(text)
    if "experiment" in table:
        assert settle(table, SweepConfig)[1] == []
    elif set(table) <= {field.name for field in fields(Config)}:
        check(table, page)
    else:
        described(table, {}, page)


@pytest.mark.parametrize(("page", "line"), LINES)
def test_a_command_line_names_only_what_the_command_knows(page: str, line: str) -> None:
    for part in re.split(r"[|;&]+", line.partition(" # ")[0]):
        words = shlex.split(part.partition(">")[0])
        while words and ("=" in words[0] or words[0] in ("sudo", "$(command", "-v")):
            words = words[1:]  # a variable, or what runs the command
        words = [word.rstrip(")") for word in words]
        if not words or words[0] not in COMMANDS:
            continue
        command: click.Command = COMMANDS[words[0]]
        rest = words[1:]
        while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
            assert rest[0] in command.commands, line
            command, rest = command.commands[rest[0]], rest[1:]
        known = {"--help", "-h", "--version"} | {
            option for parameter in command.params for option in parameter.opts
        }
        known |= {option for parameter in command.params for option in parameter.secondary_opts}
        assert {word for word in rest if re.match(r"--?[a-z]", word)} <= known, line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("http"):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), target
        titles = re.findall(r"^#+ (.*)$", there.read_text(), re.M) if anchor else []
        places = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
        assert not anchor or anchor in places, target


def test_the_index_names_every_page() -> None:
    index = (DOCS / "README.md").read_text()
    files = [path for path in DOCS.iterdir() if path.suffix in (".md", ".yml", ".json")]
    assert [path.name for path in files if f"({path.name})" not in index] == ["README.md"]


def test_the_simulators_page_names_all_that_can_be_chosen() -> None:
    page = (DOCS / "simulator.md").read_text()
    for name in (*KINDS, *ALGORITHMS, *ATTACKS, *PRESETS):
        assert f"`{name}`" in page, name


@pytest.mark.parametrize(
    ("page", "example"),
    [("engineer.md", "workstation.py"), ("researcher.md", "simulate.py")],
)
def test_a_page_shows_the_example_as_it_is(page: str, example: str) -> None:
    program = (EXAMPLES / example).read_text().partition('"""\n')[2].strip()
    assert program in [block.strip() for block in blocks(DOCS / page, "python")]


def test_the_simulation_from_python_runs(capsys: pytest.CaptureFixture[str]) -> None:
    run_path(str(EXAMPLES / "simulate.py"), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["lr 0.01", "lr 0.03", "lr 0.1"]


def test_the_learner_from_scratch_learns() -> None:
    learner = build(load(f"{EXAMPLES / 'learner.py'}:learner"), 1, 2, 0, {"rate": "0.05"})
    before = learner.evaluate()["loss"]
    learner.load(learner.parameters())
    for _ in range(10):
        assert learner.train() == 5000
    assert learner.evaluate()["loss"] < 0.01 * before


def test_the_loops_of_workstations_run(tmp_path: Path) -> None:
    """One after another in one process: PyTorch is imported once."""
    (schedule,) = [block for block in blocks(DOCS / "engineer.md", "python") if "slower" in block]
    program = f"from runpy import run_path\nrun_path({str(EXAMPLES / 'workstation.py')!r})\n"
    done = subprocess.run(
        [sys.executable, "-c", program + schedule, "--steps", "50"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "others may join 127.0.0.1:" in done.stdout
    assert (tmp_path / "state0" / "checkpoint.safetensors").exists()


def test_the_experiments_of_the_study_say_what_they_say() -> None:
    study, sweep = (tomllib.loads(text) for text in blocks(DOCS / "researcher.md", "toml"))
    assert isinstance(described(study, {}, "exp.toml"), Experiment)
    assert len(settle(sweep, SweepConfig)[0].cells) == 3  # type: ignore[union-attr]
