"""Every learner: one model for all nodes, data of their own, and answers to raw inputs."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gossip.learner import Answering, Batches, TorchLearner
from models import digits, images, recommend, speech, tabular, text, timeseries, topics
from models.data import packages, telemetry
from models.data.files import DataError

SHARDS = 3
SUBJECTS = {
    "games": "a puzzle with levels and a score",
    "mail": "reads letters from an inbox",
    "sound": "plays music from an album",
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data for every learner that has no data of its own everywhere."""
    root = tmp_path_factory.mktemp("files")
    rows = [
        {"text": f"{SUBJECTS[name]} {owner}", "label": name, "owner": f"owner {owner}"}
        for owner in range(40)
        for name in SUBJECTS
    ]
    (root / "topics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    rng = np.random.default_rng(0)
    with (root / "ratings.csv").open("w") as file:
        file.write("userId,movieId,rating\n")
        for user in range(60):  # each likes one of two halves
            for item in rng.permutation(15)[:8]:
                file.write(f"u{user},{15 * (user % 2) + item},5\n")
    return root


def makes(files: Path) -> dict[str, Callable[..., TorchLearner]]:
    return {
        "digits": digits.learner,
        "images": lambda *args: images.learner(*args, model="resnet"),
        "images, batch": lambda *args: images.learner(*args, model="resnet", norm="batch"),
        "text": text.learner,
        "transformer": lambda *args: text.learner(*args, model="transformer"),
        "topics": lambda *args: topics.learner(*args, path=str(files / "topics.jsonl")),
        "recommend": lambda *args: recommend.learner(*args, path=str(files / "ratings.csv")),
        "breast cancer": tabular.learner,
        "wine": lambda *args: tabular.learner(*args, data="wine"),
        "diabetes": lambda *args: tabular.learner(*args, data="diabetes"),
        "timeseries": timeseries.learner,
    }


NAMES = list(makes(Path()))
RAW = {
    "digits": np.eye(8).tolist(),
    "images": [0.0] * 64,
    "images, batch": [0.0] * 64,
    "text": "import nump",
    "transformer": "import nump",
    "topics": "a game with a puzzle",
    "recommend": 3,
    "breast cancer": {"mean radius": 12.0},
    "wine": {"alcohol": 13},
    "diabetes": {"age": 50, "bmi": 25.5},
    "timeseries": [[0.1, 0.2, 0.3, 0.4]] * timeseries.WINDOW,
}


@pytest.mark.parametrize("name", NAMES)
def test_nodes_start_alike_train_on_different_data_and_answer(name: str, files: Path) -> None:
    make = makes(files)[name]
    one, other = make(0, SHARDS, 1), make(1, SHARDS, 1)
    assert one.layout == other.layout
    assert torch.equal(one.parameters(), other.parameters())
    assert isinstance(one.batches, Batches)
    assert isinstance(other.batches, Batches)
    assert not torch.equal(one.batches.inputs[:3], other.batches.inputs[:3]) or name == "recommend"
    before = one.parameters()
    assert one.train() > 0
    assert not torch.equal(one.parameters(), before)
    found = one.evaluate()
    assert 2 <= len(found) <= 6  # what fits into a node's record
    assert all(np.isfinite(value) for value in found.values())
    assert isinstance(one, Answering)
    assert json.loads(json.dumps(one.predict([RAW[name]] * 2)))
    with pytest.raises(ValueError, match="an input is"):
        one.predict([object()])


@pytest.mark.parametrize("name", NAMES)
def test_a_shard_that_does_not_exist_is_refused(name: str, files: Path) -> None:
    with pytest.raises(ValueError, match="shard must be 0 to 2 of 3 shards, not 3"):
        makes(files)[name](3, 3, 0)


def test_users_stay_where_they_are_and_items_are_shared(files: Path) -> None:
    learner = recommend.learner(0, 2, path=str(files / "ratings.csv"))
    assert learner.layout.names == ("items.weight", "items.bias")
    assert "model.users.weight" in learner.state()
    before = learner.evaluate()["hit@10"]
    for _ in range(10):
        learner.train()
    assert learner.evaluate()["hit@10"] > before
    (items,) = learner.predict([0])
    seen = learner.model.seen[0]  # type: ignore[index]
    names = recommend.load(str(files / "ratings.csv"))[2]
    assert isinstance(items, list)
    assert not {names[index] for index in seen.nonzero().flatten().tolist()} & {*items}


def test_topics_are_told_by_their_words(files: Path) -> None:
    learner = topics.learner(0, 2, path=str(files / "topics.jsonl"))
    for _ in range(10):
        learner.train()
    assert learner.evaluate()["f1"] == 1
    (answer,) = learner.predict(["which letters are in the inbox"])
    assert isinstance(answer, dict)
    assert answer["label"] == "mail"


def test_text_goes_on_as_it_began() -> None:
    learner = text.learner(0, 1, steps=60)
    before = learner.evaluate()["bits"]
    learner.train()
    assert learner.evaluate()["bits"] < before - 1.5


@pytest.mark.parametrize("model", ["cnn", "gru"])
def test_both_networks_take_what_is_heard(model: str) -> None:
    network = speech.network(model, 10, 0)  # type: ignore[arg-type]
    assert network(torch.randn(2, speech.MELS, speech.FRAMES)).shape == (2, 10)


def test_without_espeak_it_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DataError, match="apt-get install espeak-ng"):
        speech.say("yes", "en-us+m1", tmp_path / "word.wav")
    with pytest.raises(DataError, match=r"there is no package index here .*apt-get update"):
        packages.local.__wrapped__()


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="needs espeak-ng")
def test_a_spoken_word_becomes_an_input(tmp_path: Path) -> None:
    data = speech.say("yes", "en-us+f1", tmp_path / "word.wav")
    assert speech.prepare(data).shape == (speech.MELS, speech.FRAMES)


def test_a_table_of_ones_own_is_told_by_its_columns(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    lines = ["size,kind,price"]
    for _ in range(200):
        size, kind = rng.uniform(1, 9), rng.integers(2)
        lines.append(f"{size:.3f},{'old' if kind else 'new'},{size * (1 - 0.5 * kind):.3f}")
    path = tmp_path / "prices.csv"
    path.write_text("\n".join(lines))
    learner = tabular.learner(path=str(path), target="price", scale=5)
    for _ in range(20):
        learner.train()
    assert learner.evaluate()["r2"] > 0.8
    old, new = learner.predict([{"size": 6, "kind": "old"}, {"size": 6, "kind": "new"}])
    assert (old, new) == (pytest.approx(3, abs=1), pytest.approx(6, abs=1))


@pytest.mark.parametrize(
    ("lines", "options", "message"),
    [
        (["a,target", "1,x"], {"classes": "y,z"}, "row 1: target is 'x', which is none of y,z"),
        (["a,target", "1,x"], {}, "name its classes=A,B"),
        (["a,b", "1,2"], {}, "has no column 'target' to tell; it has a, b"),
    ],
)
def test_what_a_table_lacks_is_named(
    lines: list[str], options: dict[str, str], message: str, tmp_path: Path
) -> None:
    (tmp_path / "t.csv").write_text("\n".join([lines[0], *lines[1:] * 3]))
    with pytest.raises(DataError, match=message):
        tabular.learner(path=str(tmp_path / "t.csv"), **options)  # type: ignore[arg-type]


def test_images_are_found_as_idx_as_cifar_and_in_directories(tmp_path: Path) -> None:
    pixels, labels = np.zeros((4, 5, 5), np.uint8), np.array([0, 1, 2, 1], np.uint8)
    (tmp_path / "idx").mkdir()
    for part in ("train", "t10k"):
        head = b"\0\0\x08\3\0\0\0\4\0\0\0\5\0\0\0\5"
        (tmp_path / "idx" / f"{part}-images-idx3-ubyte").write_bytes(head + pixels.tobytes())
        head = b"\0\0\x08\1\0\0\0\4"
        (tmp_path / "idx" / f"{part}-labels-idx1-ubyte").write_bytes(head + labels.tobytes())
    (tmp_path / "cifar").mkdir()
    batch = {"data": np.zeros((4, 3072), np.uint8), "labels": [0, 1, 2, 1]}
    for part in ("data_batch_1", "test_batch"):
        (tmp_path / "cifar" / part).write_bytes(pickle.dumps(batch, 2))
    for number in range(4):
        (tmp_path / "photos" / f"class {number % 2}").mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4)).save(tmp_path / "photos" / f"class {number % 2}" / f"{number}.png")
    found = {name: images.read(str(tmp_path / name)) for name in ("idx", "cifar", "photos")}
    shapes = {name: data.images.shape for name, data in found.items()}
    assert shapes == {"idx": (8, 1, 5, 5), "cifar": (8, 3, 32, 32), "photos": (4, 3, 32, 32)}
    assert [data.testing.sum() for data in found.values()] == [4, 4, 2]
    learner = images.learner(path=str(tmp_path / "photos"), model="resnet", augment=True)
    assert learner.train() > 0
    assert learner.predict([next((tmp_path / "photos").rglob("*.png")).read_bytes()])


def test_telemetry_is_read_from_proc(tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "dev").write_text("head\nhead\n  lo: 100 0 0 0 0 0 0 0 50 0\n")
    (tmp_path / "stat").write_text("cpu  30 0 10 60 0 0 0 0 0\ncpu0 1\ncpu1 1\nintr 5\n")
    (tmp_path / "loadavg").write_text("0.50 0.40 0.30 1/100 1234\n")
    (tmp_path / "meminfo").write_text("MemTotal: 100 kB\nMemAvailable: 25 kB\n")
    reader = telemetry.Telemetry(tmp_path)
    assert reader.read().tolist() == pytest.approx([0.4, 0.25, 0.75, 0])
    (tmp_path / "stat").write_text("cpu  40 0 10 90 0 0 0 0 0\ncpu0 1\ncpu1 1\n")
    assert reader.read()[0] == pytest.approx(0.25)
    with pytest.raises(DataError, match="it needs Linux"):
        telemetry.Telemetry(tmp_path / "none").read()


def test_live_readings_are_taken_in_as_they_come() -> None:
    taken = 0

    def read() -> np.ndarray:
        nonlocal taken
        taken += 1
        return np.array([taken, 2 * taken], np.float32)

    batches = timeseries.Live(read, 4, torch.Generator().manual_seed(0), every=1e-4)
    assert len(batches.held_out) == timeseries.HELD_OUT
    begun = taken
    for (inputs, targets), _ in zip(batches, range(5), strict=False):
        assert inputs.shape == (4, timeseries.WINDOW, 2)
        assert targets.tolist() == [[1, 2]] * 4
        assert inputs.min() > timeseries.HELD_OUT  # what is tested is not trained on
    assert taken > begun


def test_a_recorded_series_is_forecast_from_its_file(tmp_path: Path) -> None:
    moments = np.arange(600)
    rows = [f"{np.sin(0.7 * moment):.4f},{np.cos(0.7 * moment):.4f}" for moment in moments]
    (tmp_path / "series.csv").write_text("\n".join(["cpu,memory", *rows]))
    learner = timeseries.learner(0, 2, path=str(tmp_path / "series.csv"), lr=0.05)
    for _ in range(10):
        learner.train()
    assert learner.evaluate()["r2"] > 0.9
    (tmp_path / "short.csv").write_text("cpu\n1\n")
    with pytest.raises(DataError, match="1 rows are fewer than"):
        timeseries.learner(path=str(tmp_path / "short.csv"))
