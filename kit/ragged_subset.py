"""Some clients of a store and nobody else, in memory, for a process that may see these alone.

Every client keeps its position; those left out have no rows, so not even their sizes are told. The
copy lives in anonymous memory that is sealed against writing and gone with its last descriptor;
nothing is ever written to a disk.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kit.ragged import OFFSETS, Manifest, RaggedStore, ragged_rows

_BLOCK_BYTES = 1 << 22


@dataclass(frozen=True)
class Subset:
    """Clients of a store.

    Attributes:
        directory: the store.
        clients: their positions, int64, each once, rising.
    """

    directory: Path
    clients: npt.NDArray[np.int64]


@contextmanager
def descriptors(subset: Subset) -> Iterator[tuple[Manifest, dict[str, int]]]:
    """Like `kit.ragged.descriptors`, for a subset; the manifest has no digests.

    Raises:
        OSError: the store cannot be opened, or the system has no sealed memory.
        StoreDamaged: it is not a store.
    """
    store = RaggedStore.open(subset.directory)
    rows, _ = ragged_rows(store.offsets, subset.clients)
    lengths = np.zeros(store.clients + 1, np.int64)
    lengths[subset.clients + 1] = store.sizes(subset.clients)
    whole = store.manifest
    files: dict[str, int] = {}
    with ExitStack() as stack:
        files[OFFSETS] = _sealed([np.cumsum(lengths)], stack)
        for column in whole.columns:
            step = max(1, _BLOCK_BYTES // column.row_bytes)
            data = store.column(column.name)
            blocks = (data[rows[at : at + step]] for at in range(0, len(rows), step))
            files[column.file] = _sealed(blocks, stack)
        manifest = replace(whole, examples=len(rows), files=dict.fromkeys(whole.files, ""))
        yield manifest, files


def _sealed(blocks: Any, stack: ExitStack) -> int:
    """Anonymous memory of the blocks' bytes, read-only for good."""
    made = os.memfd_create("subset", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with os.fdopen(made, "wb") as file:
        for block in blocks:
            if block.size:
                file.write(np.ascontiguousarray(block).data.cast("B"))
        file.flush()
        seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
        fcntl.fcntl(made, fcntl.F_ADD_SEALS, seals)
        # A shared mapping of sealed memory needs a descriptor that could never write.
        reader = os.open(f"/proc/self/fd/{made}", os.O_RDONLY | os.O_CLOEXEC)
    stack.callback(os.close, reader)
    return reader
