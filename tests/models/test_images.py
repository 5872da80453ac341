import numpy as np
import pytest
import torch

from models import images


def test_the_data_are_the_same_for_everybody_and_the_classes_even() -> None:
    first, labels = images.make_images()
    images.make_images.cache_clear()
    again, _ = images.make_images()
    assert np.array_equal(first, again)
    assert first.shape == (images.TRAINING + images.TESTING, 64)
    assert set(np.bincount(labels)) == {len(labels) // images.CLASSES}


def test_all_nodes_start_from_the_same_weights_and_have_their_own_samples() -> None:
    one, other = (images.learner(shard, 16, split="shards") for shard in (0, 1))
    assert torch.equal(one.parameters(), other.parameters())
    assert one.layout.size == 6010
    for learner in (one, other):
        assert len(learner.batches.targets.unique()) == 2  # type: ignore[attr-defined]


def test_all_of_the_data_teach_what_a_sixteenth_does_not() -> None:
    whole = images.learner(0, 1, batch_size=256, steps=300, drift_correction=0)
    part = images.learner(0, 16, steps=300, drift_correction=0)
    whole.train()
    part.train()
    assert whole.evaluate()["accuracy"] > 0.85
    assert part.evaluate()["accuracy"] < 0.8


def test_a_shard_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="shard must be 0 to 3 of 4 shards, not 4"):
        images.learner(4, 4)
