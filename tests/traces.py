"""Reads traces as Perfetto does, and holds them against what a trace must be."""

from __future__ import annotations

import gzip
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

NAMES = {
    *("training", "load", "evaluate", "network", "sync", "encode", "decode", "merge", "idle"),
    *("joining", "events", "look", "down", "wire"),
}
ROUNDED = 2e-3  # microseconds; times are written with three places

Event = dict[str, Any]


def read(path: Path) -> list[Event]:
    """The events; the end of the array may be missing, and half of the last event be there."""
    data = path.read_bytes()
    return parsed((gzip.decompress(data) if path.suffix == ".gz" else data).decode())


def parsed(text: str) -> list[Event]:
    """The same of what a file holds: the whole objects of an array, as Perfetto takes them."""
    assert text[:1] in ("", "["), text[:20]
    events, at, decoder = [], 1, json.JSONDecoder()
    while (at := text.find("{", at)) >= 0:
        try:
            event, at = decoder.raw_decode(text, at)
        except json.JSONDecodeError:
            break
        events.append(event)
    return events


def named(events: list[Event], thread: str) -> list[Event]:
    """The spans of the track of that name."""
    [key] = [
        (event["pid"], event["tid"])
        for event in events
        if event["name"] == "thread_name" and event["args"]["name"] == thread
    ]
    return [e for e in events if e["ph"] == "X" and (e["pid"], e["tid"]) == key]


def check(events: list[Event]) -> None:
    """Names are known, nothing ends before it began, and the spans of a track nest."""
    tracks: dict[tuple[int, int], list[Event]] = defaultdict(list)
    open_: dict[str, Event] = {}
    for event in events:
        if event["ph"] == "M":
            continue
        assert event["name"] in NAMES, event
        assert event["ts"] >= 0, event
        match event["ph"]:
            case "X":
                tracks[event["pid"], event["tid"]].append(event)
            case "b":
                assert event["id"] not in open_, event
                open_[event["id"]] = event
            case "e":
                assert event["ts"] >= open_.pop(event["id"])["ts"], event
            case kind:
                assert kind == "i", event
    for spans in tracks.values():
        _nest(spans)


def _nest(spans: list[Event]) -> None:
    ends: list[float] = []
    for span in sorted(spans, key=lambda one: (one["ts"], -one["dur"])):
        assert span["dur"] >= 0, span
        while ends and ends[-1] <= span["ts"] + ROUNDED:
            ends.pop()
        end = span["ts"] + span["dur"]
        assert not ends or end <= ends[-1] + ROUNDED, span
        ends.append(end)
