"""Settings for all tests."""

import os

import torch
from hypothesis import settings

torch.set_num_threads(1)

# The same examples on every run, so that a red test is a broken change and not bad luck.
# `make soak` looks for new ones.
settings.register_profile("fixed", derandomize=True, deadline=None)
settings.register_profile("soak", deadline=None, max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))
