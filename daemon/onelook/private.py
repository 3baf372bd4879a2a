"""Private files: the gallery and its key, which their owner alone may read."""

from __future__ import annotations

import os
from pathlib import Path

from onelook.errors import GalleryError


def write_private(path: Path, content: bytes) -> None:
    """A new file that only its owner can read. Raises OSError, FileExistsError among them."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        if os.geteuid() == 0:  # `sudo onelook enroll` must not lock the daemon's user out
            folder = path.parent.stat()
            os.fchown(file, folder.st_uid, folder.st_gid)
        os.write(file, content)
        os.fsync(file)
    finally:
        os.close(file)


def open_to_others(what: str, path: Path, mode: int) -> GalleryError:
    """The refusal of a file that others can read, or of a folder in its place. what: "gallery" or "key"."""
    if path.is_dir():
        return GalleryError(f"The {what} {path} is a folder, and must be a file.")
    return GalleryError(
        f"The {what} {path} is open to other users (mode {mode & 0o7777:04o}): run `chmod 600 {path}`."
    )


def uncreatable(what: str, path: Path, error: OSError) -> GalleryError:
    """The sentence for what `write_private`, or making the folder for it, met."""
    return GalleryError(
        f"The {what} {path} cannot be created ({error.strerror}): run this as the user who owns "
        f"{path.parent}, or give another path."
    )
