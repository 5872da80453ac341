import pytest
import torch

from models import characters


def test_modules_are_for_training_or_for_testing() -> None:
    training, testing = characters.modules()
    assert len(training) + len(testing) == characters.MODULES
    assert len(training) >= 48
    assert all(text.max() <= len(characters.ALPHABET) for text in training)


def test_a_sample_is_some_characters_and_the_next() -> None:
    text = characters._encode("import sysconfig")
    inputs, targets = characters.samples([text])
    assert len(inputs) == len(text) - characters.CONTEXT
    assert inputs[0].tolist() == text[:8].tolist()
    assert int(targets[0]) == text[8]


def test_nodes_start_alike_and_read_different_modules() -> None:
    one, other = (characters.learner(shard, 16) for shard in (0, 1))
    assert torch.equal(one.parameters(), other.parameters())
    assert not torch.equal(one.batches.inputs[:50], other.batches.inputs[:50])  # type: ignore[attr-defined]


def test_it_learns_more_than_that_blanks_are_frequent() -> None:
    learner = characters.learner(0, 1, batch_size=128, steps=150)
    before = learner.evaluate()["accuracy"]
    learner.train()
    assert before < 0.1
    assert learner.evaluate()["accuracy"] > 0.33


def test_more_nodes_than_modules_are_refused() -> None:
    with pytest.raises(ValueError, match="modules are there"):
        characters.learner(0, 1000)
