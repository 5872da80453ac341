"""I/O: tensors and metadata, written so that a power cut at any moment leaves a good file.

A checkpoint is a safetensors file. Its metadata holds two texts: `metadata`, JSON, and `sha256`,
the hex digest of that JSON followed, for each tensor in the order of the names, by its name, dtype
and shape (as JSON) and its bytes. So whatever is changed or missing is noticed, and nothing is
ever unpickled.

Two files lie side by side, NAME and NAME.previous (the one before); while one is written, others:

    write NAME.part, fsync             a cut leaves all others as they were
    rename NAME.part to NAME.new       from here on that is good, whatever NAME is
    rename NAME to NAME.previous       a cut leaves NAME.new and NAME.previous
    rename NAME.new to NAME, fsync the directory

So not even a NAME that has rotted on the disk can push out the last good file, and a second cut
cannot take away the NAME.new that the first one left. `load` takes the first good one of NAME,
NAME.new, NAME.previous.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize
from torch import Tensor

from gossip.errors import CheckpointError
from p2p.files import sync_directory

NAME = "checkpoint.safetensors"  # in a state directory


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What `save` was given; metadata as JSON gives it back (lists for tuples, text keys)."""

    tensors: dict[str, Tensor]
    metadata: dict[str, Any]
    path: Path  # the file that was read
    warning: str | None  # why it is not the newest, in words for an operator


def save(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, object]) -> None:
    """Write a checkpoint, readable by its owner only; the one that was there becomes the previous.

    Raises OSError (no such directory, disk full); the checkpoint that was there is still there.
    TypeError: metadata that JSON cannot hold. RuntimeError: tensors that share memory.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(metadata)
    content = serialize(tensors, {"metadata": text, "sha256": _digest(text, tensors)})
    part = path.with_name(f"{path.name}.part")
    _write(part, content)
    os.replace(part, _new(path))
    if path.exists():
        os.replace(path, _previous(path))
    os.replace(_new(path), path)
    sync_directory(path.parent)


def load(path: Path) -> Checkpoint | None:
    """Read the newest good checkpoint; None if there is none at all.

    Raises CheckpointError when there are checkpoints but none can be used; it names them.
    """
    troubles: list[str] = []
    for candidate in (path, _new(path), _previous(path)):
        try:
            tensors, metadata = _read(candidate)
        except FileNotFoundError:
            continue
        except (OSError, SafetensorError, ValueError) as error:
            if candidate != _new(path):  # of an earlier version: a cut left it half written
                troubles.append(f"{candidate} cannot be used: {error}")
            continue
        if candidate == path:
            return Checkpoint(tensors, metadata, candidate, None)
        cause = troubles[0] if troubles else f"{path} is missing"
        return Checkpoint(tensors, metadata, candidate, f"{cause}; using {candidate} instead")
    if troubles:
        raise CheckpointError(f"{'; '.join(troubles)}. Move them away to start afresh.")
    return None


def _new(path: Path) -> Path:
    return path.with_name(f"{path.name}.new")


def _previous(path: Path) -> Path:
    return path.with_name(f"{path.name}.previous")


def _write(path: Path, content: bytes) -> None:
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        path.unlink(missing_ok=True)  # a full disk is not helped by half a file
        raise


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    with safe_open(path, framework="pt") as file:
        texts = file.metadata() or {}
        # cloned: what safetensors returns may be a map of the file
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    if "sha256" not in texts or "metadata" not in texts:
        raise ValueError("it is not a checkpoint, or its header is damaged")
    if _digest(texts["metadata"], tensors) != texts["sha256"]:
        raise ValueError("its content does not match its SHA-256: it is damaged")
    return tensors, json.loads(texts["metadata"])


def _digest(metadata: str, tensors: Mapping[str, Tensor]) -> str:
    digest = sha256(metadata.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
