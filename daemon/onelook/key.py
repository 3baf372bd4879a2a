"""Key: what the gallery is sealed with, 32 random bytes in a file of their own; or systemd hands them over."""

from __future__ import annotations

import fcntl
import logging
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count as numbers
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from onelook.errors import GalleryError
from onelook.private import open_to_others, uncreatable, write_private
from onelook.systemd import credential

log = logging.getLogger("onelook.gallery")  # whose lines these are to a reader of the journal

CREDENTIAL = "gallery-key"
"""Name of the systemd credential that holds the key."""
KEY_BYTES = 32


class Key:
    """Where a gallery's key is, now and while it changes. Remembers no key: each is read when it is needed."""

    def __init__(self, file: Path) -> None:
        """`file`: where the key is unless systemd hands one over."""
        self.file = file

    @property
    def path(self) -> Path:
        """Where it is read from: the systemd credential `gallery-key`, else `file`."""
        return credential(CREDENTIAL) or self.file

    @property
    def handed_over(self) -> bool:
        """Whether it comes from systemd, to which we cannot give another."""
        return self.path != self.file

    @property
    def old(self) -> Path:
        """Where `settle` leaves the key of before."""
        return self.file.with_name(self.file.name + ".old")

    @property
    def _new(self) -> Path:
        return self.file.with_name(self.file.name + ".new")

    def read(self) -> bytes | None:
        """The 32 bytes, or none if there is no key yet. Raises GalleryError if it cannot serve."""
        path = self.path
        return _key_in(path, own=path == self.file)  # systemd sees to its credentials' mode itself

    def create(self) -> bytes:
        """Makes `file`, with 32 new bytes. Raises GalleryError, also if it has come into being meanwhile."""
        return _create_key(self.file)

    def prepare(self, file: Path | None = None) -> bytes:
        """The 32 bytes of the next key: those in `file`; none: new ones, which `settle` puts into the old one's place.

        Raises GalleryError if they cannot serve, or are the present key's.
        """
        if file is None:
            try:
                self._new.unlink(missing_ok=True)
            except OSError as error:
                raise uncreatable("key", self._new, error) from error
            _create_key(self._new)
        key = _key_in(file or self._new, own=True)
        if key is None:
            raise GalleryError(f"There is no key {file or self._new}.")
        if key == self.read():
            raise GalleryError(f"{file} holds the key that the gallery has already: give a file with another.")
        return key

    def coming(self) -> bytes | None:
        """The 32 bytes that `prepare` made and nobody has settled yet. Raises GalleryError if they cannot serve."""
        return None if self.handed_over else _key_in(self._new, own=True)

    def settle(self) -> None:
        """Puts the new key into the old one's place; to be called by one process at a time, see `alone`."""
        try:
            if not self._new.exists():
                return  # another process was quicker
            if self.file.exists() and not (self.old.exists() and self.old.samefile(self.file)):
                if self.old.exists():  # of an earlier change: another gallery or a backup may have it
                    others = (self.old.with_name(f"{self.old.name}{number}") for number in numbers(2))
                    self.old.rename(next(file for file in others if not file.exists()))
                self.old.hardlink_to(self.file)
            self._new.replace(self.file)
            _keep_entry(self.file.parent)
        except OSError as error:
            raise GalleryError(
                f"The new key {self._new} cannot be put in the place of {self.file} "
                f"({error.strerror}): rename it by hand."
            ) from error
        log.info("the gallery has a new key")


class Seal:
    """AES-256-GCM under one key. What is sealed: nonce (12 bytes), ciphertext, tag (16 bytes)."""

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)

    def close(self, plain: bytes, *bound: object) -> bytes:
        """Seals, bound to where it belongs: moved anywhere else, it does not open."""
        nonce = secrets.token_bytes(12)
        return nonce + self._cipher.encrypt(nonce, plain, _place(bound))

    def open(self, sealed: object, *bound: object) -> bytes:
        """Raises InvalidTag for any other key, place or content."""
        if not isinstance(sealed, bytes) or len(sealed) < 12 + 16:  # a damaged file can hold anything
            raise InvalidTag
        return self._cipher.decrypt(sealed[:12], sealed[12:], _place(bound))


@contextmanager
def alone(folder: Path) -> Iterator[bool]:
    """Whether no other process changes the key of a gallery in this folder, and none does so meanwhile."""
    entry = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(entry, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        except OSError:  # a file system without locks
            log.debug("%s cannot be locked", folder)
        yield True
    finally:
        os.close(entry)


def _key_in(path: Path, *, own: bool) -> bytes | None:
    """The 32 bytes of a key's file; none if there is no file. own: others must not be able to read it."""
    try:
        raw, mode = path.read_bytes(), path.stat().st_mode
    except FileNotFoundError:
        return None
    except OSError as error:
        raise GalleryError(f"The key {path} cannot be read: {error.strerror}.") from error
    if own and mode & 0o077:
        raise open_to_others("key", path, mode)
    if len(raw) == KEY_BYTES:
        return raw
    if re.fullmatch(rb"[0-9A-Fa-f]{64}", raw.strip()):
        return bytes.fromhex(raw.decode())
    raise GalleryError(
        f"The key {path} is no key: it holds {len(raw)} bytes, where a key is 32 random bytes, as they "
        f"are or as 64 hexadecimal digits."
    )


def _create_key(path: Path) -> bytes:
    """Written aside and then linked: a key is there whole or not at all, and never replaced."""
    folder, key = path.parent, secrets.token_bytes(KEY_BYTES)
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            write_private(aside, key.hex().encode() + b"\n")
            path.hardlink_to(aside)
        finally:
            aside.unlink(missing_ok=True)
        _keep_entry(folder)
    except OSError as error:
        raise uncreatable("key", path, error) from error
    log.info("made the gallery's key %s", path)
    return key


def _keep_entry(folder: Path) -> None:
    """A folder's entries reach the disk: or a power cut could keep the templates and lose their key."""
    entry = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(entry)
    finally:
        os.close(entry)


def _place(bound: tuple[object, ...]) -> bytes:
    return "\0".join(map(str, bound)).encode()
