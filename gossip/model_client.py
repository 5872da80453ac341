"""I/O: what `gossip model` does with files and running nodes. PyTorch only where a checkpoint is
read."""

from __future__ import annotations

import os
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path

import numpy as np

from gossip import client
from gossip.errors import CheckpointError, ConfigError
from gossip.model_file import SHA256, ModelFile
from p2p.files import settle

TIMEOUT = 60.0  # seconds without a byte; a large model is copied and hashed first. A guess.
PIECE = 1 << 20  # bytes


def pull(state_dir: Path | None, api: str | None, file: Path) -> ModelFile:
    """Write a running node's model to a file, which is whole or as it was.

    Raises Unreachable, Refused, and ConfigError if the file cannot be written.
    """
    with client.send(state_dir, api, "model", timeout=TIMEOUT) as answer:
        digest = sha256()

        def pieces() -> Iterable[bytes]:
            while piece := answer.read(PIECE):
                digest.update(piece)
                yield piece

        fresh = _write(file, pieces())
        expected = answer.headers.get(SHA256)
    if expected != digest.hexdigest():
        fresh.unlink()
        raise client.Unreachable(
            "what arrived is not what the node sent (another SHA-256); pull it again"
        )
    settle(fresh, file)
    return ModelFile.open(file)


def push(state_dir: Path | None, api: str | None, file: Path) -> ModelFile:
    """Have a running node go on from the model in a file.

    Raises Unreachable, Refused, and ModelError if the file is no model.
    """
    model = ModelFile.open(file)
    with file.open("rb") as content:
        digest, size = sha256(), 0
        while piece := content.read(PIECE):
            digest.update(piece)
            size += len(piece)
        content.seek(0)
        headers = {
            SHA256: digest.hexdigest(),
            "Content-Length": str(size),
            "Content-Type": "application/octet-stream",
        }
        with client.send(state_dir, api, "model", content, headers, "PUT", TIMEOUT) as answer:
            answer.read()
    return model


def export(state_dir: Path, file: Path) -> tuple[ModelFile, str | None]:
    """Write the model of a node that does not run; and what is to be said about its checkpoint.

    Raises CheckpointError, and ConfigError if the file cannot be written.
    """
    pieces, warning = _saved(state_dir)
    settle(_write(file, pieces), file)
    return ModelFile.open(file), warning


def open_model(path: Path) -> tuple[ModelFile, str | None]:
    """A file, or the checkpoint in a state directory and what is to be said about it.

    Raises ModelError, CheckpointError.
    """
    if not path.is_dir():
        return ModelFile.open(path), None
    pieces, warning = _saved(path)
    return ModelFile(np.frombuffer(b"".join(pieces), np.uint8), str(path)), warning


def _saved(state_dir: Path) -> tuple[Iterable[bytes], str | None]:
    """The model in a state directory, as the bytes of a file."""
    from gossip import checkpoint, model_vector
    from gossip.vector import Layout

    path = state_dir / checkpoint.NAME
    saved = checkpoint.load(path)
    if saved is None:
        raise CheckpointError(f"there is no {path}; is {state_dir} the --state-dir of a node?")
    if "tensors" not in saved.metadata:
        raise CheckpointError(
            f"{saved.path} does not name its layers, as earlier versions wrote it; run the node "
            "once, then export again"
        )
    layout = Layout.decode(saved.metadata["tensors"].encode())
    node = str(saved.metadata.get("id", ""))
    about = model_vector.about(layout, int(saved.metadata["samples"]), node)
    return model_vector.write(layout, saved.tensors["x"], about), saved.warning


def _write(file: Path, pieces: Iterable[bytes]) -> Path:
    """Write the bytes beside the file, for its owner to read; renaming that makes it the file."""
    fresh = file.with_name(f"{file.name}.new")
    try:
        fresh.unlink(missing_ok=True)
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise ConfigError(f"cannot write {file}: {error.strerror}; give another FILE") from None
    try:
        with open(descriptor, "wb") as output:
            for piece in pieces:
                try:
                    output.write(piece)
                except OSError as error:  # and not what reading the pieces raises
                    raise ConfigError(
                        f"cannot write {file}: {error.strerror}; make room or give another FILE"
                    ) from None
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise
    return fresh
