"""Settings for all tests."""

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from tests.daemons import Start, starter

torch.set_num_threads(1)

# The same examples on every run, so that a red test is a broken change and not bad luck.
# `make soak` looks for new ones.
settings.register_profile("fixed", derandomize=True, deadline=None)
settings.register_profile("soak", deadline=None, max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts nodes, which all end with the test."""
    with ExitStack() as stack:
        yield starter(tmp_path, stack)
