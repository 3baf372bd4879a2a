"""Door: a command's way out; the owner's mistakes become a sentence and exit code 78."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NoReturn

from onelook.errors import OwnerError


def leave(main: Callable[[], int]) -> NoReturn:
    """Run a command and exit with its code; with 78 and one sentence on stderr where it raises OwnerError."""
    try:
        sys.exit(main())
    except OwnerError as error:
        print(error, file=sys.stderr)
        sys.exit(78)
