"""Owner files on their way in: from a form onto disk, or from a directory the operator opened.

A server-side path is a way to read this machine, so none is allowed unless the operator lists its
directory, symbolic links are followed before the comparison, and a path outside says nothing about
what is there.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from starlette.datastructures import UploadFile

from gateway.settings import GatewaySettings
from privacy_gateway.errors import invalid

FOLDER = "uploads"


@contextmanager
def on_disk(
    upload: UploadFile, settings: GatewaySettings, new_id: Callable[[str], str]
) -> Iterator[Path]:
    """The uploaded file under a name of ours, removed afterwards."""
    folder = settings.state_dir / FOLDER
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / new_id("up")
    try:
        with path.open("xb") as target:
            shutil.copyfileobj(upload.file, target, 1 << 20)
        yield path
    finally:
        path.unlink(missing_ok=True)


def on_server(text: str, settings: GatewaySettings) -> Path:
    """A file the operator allows to be registered from.

    Raises:
        Refused: `invalid_request` on field `path`, alike for a missing and a forbidden one.
    """
    refused = invalid("path", "is no file in a directory the operator opened for import")
    directories = settings.readable_directories()
    if "\0" in text or not directories:
        raise refused
    try:
        path = Path(text).resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise refused from error
    if not path.is_file() or not any(path.is_relative_to(parent) for parent in directories):
        raise refused
    return path
