"""What is written from the code is as the code has it."""

from __future__ import annotations

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

import gossip
from sims.experiment import Experiment

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = spec_from_file_location("generate", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_references_are_up_to_date(generate: ModuleType) -> None:
    old = [path.name for path, text in generate.written().items() if path.read_text() != text]
    assert old == [], "run make docs"


def test_every_public_name_is_in_the_reference() -> None:
    page = (DOCS / "api.md").read_text()
    listed = [name for name in gossip.__all__ if f"### `gossip.{name}`" not in page]
    assert listed == ["GossipError"]  # with all other errors
    assert "GossipError" in page


def test_a_section_that_may_be_left_out_has_its_keys(generate: ModuleType) -> None:
    text = generate.reference(Experiment)
    assert "### `[[devices]]`" in text
    assert "* `slowdown` = `1.0`: How many times longer it trains" in text


def test_a_page_without_its_mark_is_named(generate: ModuleType) -> None:
    with pytest.raises(ValueError, match=r"written by generate\.py: settings"):
        generate.between("# Settings\n", "settings", "")
