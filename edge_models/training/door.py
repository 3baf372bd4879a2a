"""Door: a tool's way out; the owner's mistakes become a sentence and exit code 78."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn
from zipfile import BadZipFile

import numpy as np
from numpy.lib.npyio import NpzFile

from onelook.errors import OwnerError


def leave(main: Callable[[], int | None]) -> NoReturn:
    """Run a tool and exit with its code; with 78 and one sentence on stderr for OwnerError and files that are not to be had."""
    try:
        sys.exit(main())
    except OwnerError as error:
        print(error, file=sys.stderr)
    except OSError as error:
        if error.filename is None:
            raise
        print(f"{error.filename}: {error.strerror}.", file=sys.stderr)
    sys.exit(78)


def packed(file: Path) -> NpzFile:
    """The table of packed faces, as `prepare` writes it. Raises OwnerError where `file` is none."""
    try:
        table = np.load(file, allow_pickle=False)
    except (ValueError, EOFError, BadZipFile):
        table = None
    if not isinstance(table, NpzFile):
        raise OwnerError(f"{file} holds no packed faces: give an .npz that prepare, mix or align_fer wrote.")
    return table
