"""What docs/wire-format.md says is what the code does."""

from __future__ import annotations

import ast
import re
from dataclasses import MISSING, fields
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from struct import pack
from typing import Any, get_args

import pytest
import torch

import gossip.messages
import p2p.messages
from gossip.codec import CodecConfig, decode, encode
from gossip.vector import Layout
from p2p.frames import Fragment, Receipt

PAGE = (Path(__file__).parents[2] / "docs" / "wire-format.md").read_text()
SIDES = {"Of the network": p2p.messages, "Of the agents": gossip.messages}
ROW = re.compile(r"^\| (\d+) \| `(\w+)` \| (.*) \|$", re.M)
EXAMPLE = re.compile(r"^([0-9a-f]+)\n    (\w+\(.*\))$", re.M)


def section(title: str) -> str:
    found = re.search(rf"^##+ {title}\n(.*?)(?=^##+ |\Z)", PAGE, re.M | re.S)
    assert found is not None
    return found[1]


def examples(module: Any) -> list[tuple[bytes, str]]:
    names = {each.__name__ for each in get_args(module.Message)}
    one = section("Examples").partition("Of the agents")
    text = one[0] if module is p2p.messages else one[2]
    found = [(bytes.fromhex(data), said) for data, said in EXAMPLE.findall(text)]
    assert {said.partition("(")[0] for _, said in found} == names
    return found


@pytest.mark.parametrize("title", SIDES)
def test_the_tables_name_every_message_and_its_fields_in_order(title: str) -> None:
    module = SIDES[title]
    tags = {
        said.partition("(")[0]: ast.literal_eval(str(data[1]))
        for data, said in examples(module)  # the second byte of each is its tag
    }
    rows = {name: (int(tag), text) for tag, name, text in ROW.findall(section(title))}
    assert {name: tag for name, (tag, _) in rows.items()} == tags
    for kind in get_args(module.Message):
        said = re.findall(r"(?:^|, )(\w+):", rows[kind.__name__][1])
        assert said == [field.name for field in fields(kind)]
        defaults = re.findall(r"(?:^|, )(\w+): [^:,]* = ", rows[kind.__name__][1])
        assert defaults == [field.name for field in fields(kind) if field.default is not MISSING]
        assert ("a body" in rows[kind.__name__][1]) == (kind.__name__ in BODIES[title])


BODIES = {"Of the network": ["Payload"], "Of the agents": ["Half", "Describe"]}


@pytest.mark.parametrize("module", SIDES.values())
def test_the_examples_mean_what_the_page_says(module: Any) -> None:
    for data, said in examples(module):
        message, body = module.TABLE.decode(data)
        assert repr(message) == said
        assert not body
        assert module.TABLE.encode(message) == data


def test_the_limits_are_those_of_the_code() -> None:
    rows = re.findall(r"^\| `(\w+)` \| `?([^|`]+)`? \| `([\w.]+)` \|$", section("Limits"), re.M)
    assert len(rows) > 30
    for name, value, module in rows:
        found = getattr(import_module(module), name)
        assert (found if isinstance(found, str) else float(found)) == (
            value.strip() if isinstance(found, str) else float(value)
        )


def test_the_compressed_vector_is_the_one_that_the_page_takes_apart() -> None:
    (data,) = re.findall(r"^    ([0-9a-f]{32})$", section("The body of a half"), re.M)
    vector = torch.zeros(20)
    vector[torch.tensor([3, 7, 12, 19])] = torch.tensor([1.0, -0.5, 0.25, -1.25])
    assert encode(vector, CodecConfig(density=0.2, bits=3))[0].hex() == data
    patch = decode(bytes.fromhex(data), 20)
    assert patch.indices is not None
    assert patch.indices.tolist() == [3, 7, 12, 19]
    assert patch.values.tolist() == [1.125, -0.5, 0.25, -1.125]


def test_the_layout_and_the_epoch_hash_to_what_the_page_says() -> None:
    layout = Layout(("weight", "bias"), ((2, 4), (2,)), ("float32", "float32"))
    assert f"    {layout.encode().decode()}\n" in PAGE
    assert f"`{layout.hash.hex()}`" in PAGE
    assert f"`{sha256(pack('>QQ', 1, 2)).hexdigest()[:8]}`" in PAGE


def test_frames_are_as_long_as_their_parts() -> None:
    rows = [row.split("|") for row in section("Transport").splitlines() if row.startswith("| ")]
    parts = [(row[2].strip(), row[5].strip()) for row in rows[1:]]
    head = sum(int(size) for size, _ in parts[:-1])
    assert head == len(Fragment(1, 1, 1, 0, 0, 0, False, b"").encode())
    assert sum(int(size) for _, size in parts if size) == len(Receipt(1, 1, 1, 1, 1).encode())
