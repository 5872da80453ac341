"""What "your own data in twenty lines" shows runs, on data made here."""

from __future__ import annotations

import csv
import re
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gossip.learner import Answering, TorchLearner
from gossip.target import build, load

PAGE = Path(__file__).parents[2] / "docs" / "your-own-data.md"
RATE = 8000  # Hz


def learner_of(heading: str, directory: Path, shard: int, shards: int, path: Path) -> TorchLearner:
    section = PAGE.read_text().partition(f"## {heading}\n")[2]
    found = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert found is not None
    file = directory / f"own_{heading.lower().replace(' ', '_')}.py"
    file.write_text(found[1])
    learner = build(load(f"{file}:learner"), shard, shards, 0, {"path": str(path)})
    assert isinstance(learner, TorchLearner)
    assert isinstance(learner, Answering)
    return learner


def trained(learner: TorchLearner, rounds: int) -> dict[str, float]:
    for _ in range(rounds):
        learner.train()
    return learner.evaluate()


def test_a_learner_of_each_section_is_twenty_lines_or_a_few_more() -> None:
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL):
        body = block.partition("def learner")[2].strip().splitlines()
        assert len([line for line in body if line.strip()]) <= 22


def test_a_directory_of_images(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name, colour in (("red", 0), ("blue", 2)):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(30):
            pixels = rng.integers(0, 120, (20, 24, 3), dtype=np.uint8)
            pixels[..., colour] += 100
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{number}.png")
    learner = learner_of("A directory of images", tmp_path, 1, 2, tmp_path / "photos")
    assert trained(learner, 5)["f1"] == 1
    (answer,) = learner.predict([(tmp_path / "photos" / "red" / "0.png").read_bytes()])
    assert isinstance(answer, dict)
    assert answer["label"] == "red"


def test_a_csv(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["a", "b", "y"])
        for a, b in rng.normal(size=(600, 2)):
            rows.writerow([a, b, a - 2 * b])
    learner = learner_of("A CSV", tmp_path, 0, 2, tmp_path / "rows.csv")
    assert trained(learner, 10)["r2"] > 0.9
    ((answer,),) = learner.predict([{"a": 1.0, "b": 1.0}])  # type: ignore[misc]
    assert answer == pytest.approx(-1, abs=0.5)


def test_a_text_file(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("the cat sat on the mat, and the dog sat on it.\n" * 80)
    learner = learner_of("A text file", tmp_path, 0, 2, tmp_path / "notes.txt")
    assert trained(learner, 8)["perplexity"] < 2
    assert learner.predict(["mat, and the do"]) == ["g"]


def test_a_directory_of_wav_files(tmp_path: Path) -> None:
    for word, start, end in (("up", 300, 1500), ("down", 1500, 300)):
        (tmp_path / "words" / word).mkdir(parents=True)
        for number in range(20):
            seconds = np.arange(int(RATE * (0.3 + 0.02 * number))) / RATE
            pitch = np.linspace(start, end, len(seconds)) * (0.8 + 0.02 * number)
            tone = np.sin(2 * np.pi * np.cumsum(pitch) / RATE)
            write_wav(tmp_path / "words" / word / f"speaker{number}_0.wav", tone)
    learner = learner_of("A directory of WAV files", tmp_path, 0, 2, tmp_path / "words")
    assert trained(learner, 4)["accuracy"] == 1
    (answer,) = learner.predict([(tmp_path / "words" / "up" / "speaker3_0.wav").read_bytes()])
    assert isinstance(answer, dict)
    assert answer["label"] == "up"


def write_wav(path: Path, samples: Any) -> None:
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        file.writeframes((samples * 20000).astype("<i2").tobytes())
