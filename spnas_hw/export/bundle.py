"""The directory a car team receives: `model.onnx`, `model.engine` (if built), `infer.py`, a sample image,
`metadata.json`.

The metadata hold the SHA-256 of every other file; loading refuses a bundle in which one differs.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spnas_hw.errors import ExportError

METADATA = "metadata.json"
FORMAT = 2


def write_bundle(folder: Path, files: Mapping[str, bytes], metadata: Mapping[str, Any]) -> None:
    """Writes a bundle beside `folder` and moves it there when it is complete; an older one is replaced.

    Raises:
        ExportError: `folder` holds something else, or the disk refused; nothing half-written stays.
    """
    folder = folder.resolve()
    require_free(folder)
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    document = {"format": FORMAT, **metadata, "files": hashes}
    partial: Path | None = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        for name, content in files.items():
            (partial / name).write_bytes(content)
        (partial / METADATA).write_text(json.dumps(document, indent=2, allow_nan=False) + "\n")
        partial.chmod(0o755)
        _replace(partial, folder)
    except OSError as error:
        raise ExportError(f"the bundle {folder} could not be written: {error.strerror}") from error
    finally:
        if partial is not None:
            shutil.rmtree(partial, ignore_errors=True)


def _replace(partial: Path, folder: Path) -> None:
    """Moves a bundle to its place; what was there is gone only once it is. Raises OSError."""
    old = partial.with_name(f"{partial.name}-old")
    had = folder.exists()
    if had:
        os.replace(folder, old)
    try:
        os.replace(partial, folder)
    except BaseException:
        if had:
            os.replace(old, folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


def require_free(folder: Path) -> None:
    """Raises ExportError: what is there is no bundle, and would be lost."""
    if folder.exists() and not folder.is_dir():
        raise ExportError(f"{folder} is a file: choose another folder")
    if folder.exists() and (extra := _not_of_a_bundle(folder)):
        raise ExportError(f"{folder} holds something that is no bundle ({extra}): choose another folder")


def _not_of_a_bundle(folder: Path) -> str | None:
    """The first thing in a folder that no export has put there."""
    names = sorted(path.name for path in folder.iterdir())
    try:
        document = json.loads((folder / METADATA).read_text())
        own = {METADATA, *document["files"]} if document["format"] else set()
    except (OSError, ValueError, KeyError, TypeError):
        own = set()
    return next((name for name in names if name not in own), None)


def read_bundle(folder: Path) -> dict[str, Any]:
    """The metadata of a bundle whose files are the ones that were written.

    Raises:
        ExportError: no bundle, damaged metadata, or a file that is missing or differs.
    """
    path = folder / METADATA
    try:
        metadata = json.loads(path.read_text())
        files = dict(metadata["files"])
        if metadata["format"] != FORMAT:
            raise ExportError(f"{path} has format {metadata['format']}, not {FORMAT}: export again")
    except OSError as error:
        raise ExportError(f"{folder} is no bundle: it has no readable {METADATA}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ExportError(f"{path} is damaged ({error}): export again") from error
    for name, expected in files.items():
        _checked(folder, name, expected)
    return dict(metadata)


def read_file(folder: Path, name: str) -> bytes:
    """A file of a bundle, the very bytes whose hash was compared. Raises ExportError, as `read_bundle`."""
    try:
        expected = json.loads((folder / METADATA).read_text())["files"][name]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ExportError(f"{folder} is no bundle with a {name}: export again") from error
    return _checked(folder, name, expected)


def programs(engine: bool) -> dict[str, bytes]:
    """What runs a bundle and needs nothing of this package: `infer.py`, and with an engine what runs that."""
    names = ["infer.py", *["engine_session.py"] * engine]
    return {name: Path(__file__).with_name(name).read_bytes() for name in names}


def _checked(folder: Path, name: str, expected: str) -> bytes:
    file = folder / name
    if Path(name).name != name or not file.is_file():
        raise ExportError(f"{folder} lacks {name}: export again")
    content = file.read_bytes()
    if hashlib.sha256(content).hexdigest() != expected:
        raise ExportError(f"{file} is not the file that was exported (sha256 differs): export again")
    return content
