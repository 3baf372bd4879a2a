"""systemd: saying to the service manager that we are ready, alive or on our way out; the secrets that it hands over.

Its protocol is one datagram per message; a library for it would be larger than this.
"""

from __future__ import annotations

import logging
import os
import socket
from pathlib import Path

log = logging.getLogger(__name__)


def notify(state: str) -> bool:
    """Tell the service manager `state`, such as `READY=1` or `STATUS=2 of 3 streams are up`.

    Several assignments are parted by newlines. Says whether it was sent: without a manager
    there is nobody to tell, and one that does not listen is no reason to stop looking. Never
    waits: a manager that is busy, as while packages are installed, leaves its queue full, and
    the loop would stand still with it.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return False
    if address.startswith("@"):  # Linux's abstract names begin with a zero byte
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender:
            sender.sendto(state.encode(), address)
    except OSError as error:  # or that no more files may be open
        log.debug("the service manager does not listen: %s", error)
        return False
    return True


def watchdog_interval() -> float | None:
    """Seconds between two `WATCHDOG=1`: half of what the manager allows; none: it does not watch us."""
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    if not microseconds.isdecimal() or int(microseconds) == 0:
        return None
    # The variables are inherited; only the process that they name is watched.
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    return int(microseconds) / 1e6 / 2


def credential(name: str) -> Path | None:
    """The file in which systemd hands over the secret `name`, where it does: see systemd/onelook.service."""
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    files = (Path(folder, name), Path(folder, f"{name}.plain")) if folder else ()
    return next((file for file in files if not _empty(file)), None)


def _empty(file: Path) -> bool:
    try:
        return file.read_bytes() == b"\n"  # what the unit sets where the owner has put nothing
    except FileNotFoundError:
        return True
    except OSError:
        return False  # who reads it says why it cannot be read
