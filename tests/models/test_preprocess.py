"""Preparation that every node does alike."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from gossip.learner import Batches, TorchLearner
from models import preprocess


def tone(pitch: float, seconds: float, rate: int) -> np.ndarray:
    moments = np.arange(int(seconds * rate)) / rate
    return np.sin(2 * np.pi * pitch * moments).astype(np.float32)


def test_statistics_that_are_averaged_are_those_of_everybody() -> None:
    nodes = [torch.randn(100, 2) * 3 + shift for shift in (-1.0, 5.0)]
    learners = [
        TorchLearner(
            nn.Sequential(preprocess.Standardise(own), nn.Linear(2, 1)),
            Batches(own, torch.zeros(100, 1), 10, torch.Generator()),
            nn.functional.mse_loss,
            lambda parameters: torch.optim.SGD(parameters, lr=0.0),
        )
        for own in nodes
    ]
    assert torch.equal(learners[0].parameters()[3:], torch.tensor([0.0, 0, 1, 1]))  # as everybody
    for learner in learners:
        learner.train()
    mean = sum(learner.parameters() for learner in learners) / 2
    for learner in learners:
        learner.load(mean)  # type: ignore[arg-type]
        learner.train()  # puts nothing in again
    found = learners[0].parameters()[3:]
    assert torch.equal(found, learners[1].parameters()[3:])
    assert torch.allclose(found[:2], torch.cat(nodes).mean(dim=0), atol=1e-4)
    assert found[2:].tolist() == pytest.approx([9, 9], rel=0.3)


def test_what_is_missing_becomes_the_mean_and_what_is_far_out_is_cut() -> None:
    own = torch.tensor([[1.0, float("nan")], [3.0, 4.0]])
    module = preprocess.Standardise(own).train()
    assert module(own).tolist() == [[-1, 0], [1, 0]]
    module.eval()
    assert module(torch.tensor([[1e9, 4.0]]))[0, 0] == preprocess.FARTHEST


def test_columns_of_any_unit_spread_alike() -> None:
    metres = torch.rand(1000) + 1
    spread = [preprocess.symlog(metres * unit).std() for unit in (1.0, 1e3, 1e6)]
    assert max(spread) / min(spread) < 1.01
    assert preprocess.symlog(torch.tensor([-2.0, 0.0, 2.0])).sum() == 0


def test_words_count_whatever_their_case_and_order() -> None:
    one = preprocess.words("A fast mail reader", 256)
    assert np.array_equal(one, preprocess.words("reader, MAIL: a fast", 256))
    assert np.linalg.norm(one) == pytest.approx(1)
    assert not preprocess.words("", 256).any()


def test_a_tone_is_in_its_band_at_every_rate() -> None:
    bands = [
        preprocess.log_mel(tone(pitch, 0.5, rate), rate, 24, 10).mean(axis=1).argmax()
        for pitch in (400, 2000)
        for rate in (8000, 16000, 44100)
    ]
    assert len(set(bands[:3])) == len(set(bands[3:])) == 1
    assert bands[0] < bands[3]


def test_a_loud_sound_and_a_soft_one_look_the_same_and_silence_is_no_error() -> None:
    sound = tone(700, 0.3, 8000)
    loud, soft = (preprocess.log_mel(sound * gain, 8000, 24, 10) for gain in (1.0, 0.01))
    assert np.allclose(loud, soft, atol=1e-3)
    for silence in (np.zeros(1000, np.float32), np.zeros(1, np.float32)):
        quiet = preprocess.log_mel(preprocess.trimmed(silence), 8000, 24, 10)
        assert quiet.max() == pytest.approx(-1)


def test_silence_before_and_after_is_cut() -> None:
    padded = np.concatenate([np.zeros(500, np.float32), tone(500, 0.1, 8000), np.zeros(900, "f4")])
    assert len(preprocess.trimmed(padded)) == pytest.approx(800, abs=3)


def test_images_are_moved_and_mirrored_but_not_changed() -> None:
    images = torch.rand(20, 1, 5, 5)
    torch.manual_seed(0)
    augment = preprocess.Augment()
    for change in (preprocess.moved, preprocess.mirrored, augment):
        changed = change(images)
        assert not torch.equal(changed, images)
        assert torch.equal(changed.flatten(1).sort().values, images.flatten(1).sort().values)
    assert augment.eval()(images) is images


def test_a_key_is_split_the_same_way_whatever_is_beside_it() -> None:
    keys = [f"speaker {number}" for number in range(1000)]
    parts = preprocess.split(keys, 0, test=0.2, validation=0.1)
    assert preprocess.split(keys[500:], 0, test=0.2, validation=0.1) == parts[500:]
    assert np.bincount(parts) / 1000 == pytest.approx([0.7, 0.1, 0.2], abs=0.04)
    with pytest.raises(ValueError, match="leave nothing to train on"):
        preprocess.split(keys, 0, test=0.6, validation=0.4)


@pytest.mark.parametrize("raw", [[1, 2], [[1, 2], [3]], "text", None, [[1, 2], [3, float("nan")]]])
def test_numbers_of_another_shape_are_refused(raw: object) -> None:
    assert preprocess.numbers((2, 2))([[1, 2], [3, 4]]).tolist() == [[1, 2], [3, 4]]
    with pytest.raises(ValueError, match="an input is 2 x 2 numbers, not"):
        preprocess.numbers((2, 2))(raw)
