"""A word that is spoken to a node of a swarm is understood, whichever way one asks."""

from __future__ import annotations

import json
import shutil
import urllib.request
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest

from models.speech import WORDS, say
from tests.daemons import Node, Start, eventually, here
from tests.gossip.pages import WIDE, Visit, browsing

STRANGER = "en-us+m2"  # a variant of espeak-ng's that none of the voices in training has

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="needs espeak-ng"),
]


def ask(node: Node, path: str, media: str, body: bytes) -> Any:
    api = node.api
    headers = {"Authorization": f"Bearer {api['token']}", "Content-Type": media}
    request = urllib.request.Request(f"http://{api['address']}{path}", body, headers)
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def test_a_word_by_a_voice_that_nobody_has_trained_on_is_understood(
    start: Start, tmp_path: Path
) -> None:
    target = "models.speech:learner"
    one = start("one", "--shard", "0/2", target=target)
    two = start("two", "--shard", "1/2", "--join", one.address, target=target)
    two.reaches("exchanges", 20)
    eventually("it has learnt", lambda: two.status()["metrics"].get("accuracy", 0) > 0.97, 240)
    right = 0
    for word in WORDS:
        place = tmp_path / "word.wav"
        say(word, STRANGER, place, pitch=45, speed=150)
        right += here("predict", "--state-dir", two.state_dir, place).stdout.startswith(f"{word} ")
    assert right >= 9

    sound = say("left", STRANGER, place, pitch=45, speed=150)
    found = ask(two, "/api/v1/predict", "application/octet-stream", sound)
    assert found["predictions"][0]["label"] == "left"
    tensor = {
        "name": "input",
        "shape": [1],
        "datatype": "BYTES",
        "parameters": {"content_type": "base64"},
        "data": [b64encode(sound).decode()],
    }
    body = json.dumps({"inputs": [tensor]}).encode()
    answer, _ = ask(two, "/v2/models/model/infer", "application/json", body)["outputs"]
    assert json.loads(answer["data"][0])["label"] == "left"

    with browsing() as browser:
        visit = Visit(browser, two.api, viewport=WIDE)
        visit.open("Try it")
        visit.page.get_by_label("One input, as a file").set_input_files(place)
        visit.page.locator("#answer", has_text="left").wait_for()
        assert visit.wrong == []
