"""Runs a command under what a systemd unit forbids to system calls, without systemd running.

    python tests/sandbox.py systemd/onelook.service COMMAND...

Of the unit: SystemCallFilter, SystemCallErrorNumber (EPERM), MemoryDenyWriteExecute,
RestrictAddressFamilies and NoNewPrivileges. The rest needs a service manager.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import re
import socket
import subprocess
import sys
from ctypes.util import find_library
from pathlib import Path

ALLOW = 0x7FFF0000
EQUAL, MASKED_EQUAL = 4, 7


class Comparison(ctypes.Structure):
    """libseccomp's `struct scmp_arg_cmp`."""

    _fields_ = (("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64))


def fail(number: int) -> int:
    """The filter's verdict that makes a call fail with `number`."""
    return 0x00050000 | number


class Filter:
    """One seccomp filter: what it does with a call that no rule names, and its rules."""

    def __init__(self, default: int) -> None:
        name = find_library("seccomp")
        if name is None:
            sys.exit("libseccomp is not installed")
        self._library = ctypes.CDLL(name)
        self._library.seccomp_init.restype = ctypes.c_void_p
        self._filter = ctypes.c_void_p(self._library.seccomp_init(ctypes.c_uint32(default)))

    def rule(self, verdict: int, call: str, *comparisons: Comparison) -> None:
        """`call` with arguments that compare so gets `verdict`; calls of other machines are passed over."""
        number = self._library.seccomp_syscall_resolve_name(call.encode())
        if number >= 0:
            rows = (Comparison * len(comparisons))(*comparisons)
            added = self._library.seccomp_rule_add_array(
                self._filter, ctypes.c_uint32(verdict), number, len(comparisons), rows
            )
            assert added == 0, call

    def load(self) -> None:
        """From here on, for this process and all it starts. Takes new privileges away as well."""
        assert self._library.seccomp_load(self._filter) == 0


def calls(group: str) -> set[str]:
    """The system calls of one of systemd's groups, such as @system-service."""
    command = ["systemd-analyze", "--no-pager", "syscall-filter", group]
    listed = subprocess.run(command, capture_output=True, text=True, check=True)
    names = [line.strip() for line in listed.stdout.splitlines()[1:]]
    found: set[str] = set()
    for name in names:
        if name.startswith("@"):
            found |= calls(name)
        elif name and not name.startswith("#"):
            found.add(name)
    return found


def enter(unit: str) -> None:
    """Apply the unit's text to this process."""
    allowed = calls("@default")
    for sign, groups in re.findall(r"(?m)^SystemCallFilter=(~?)(.+)$", unit):
        for group in groups.split():
            allowed = allowed - calls(group) if sign else allowed | calls(group)
    filters = [ordinary := Filter(fail(errno.EPERM))]
    for call in allowed:
        ordinary.rule(ALLOW, call)

    if "\nMemoryDenyWriteExecute=yes\n" in unit:
        filters.append(memory := Filter(ALLOW))
        both = mmap.PROT_WRITE | mmap.PROT_EXEC
        memory.rule(fail(errno.EPERM), "mmap", Comparison(2, MASKED_EQUAL, both, both))
        for call in ("mprotect", "pkey_mprotect"):
            memory.rule(fail(errno.EPERM), call, Comparison(2, MASKED_EQUAL, mmap.PROT_EXEC, mmap.PROT_EXEC))

    if families := re.search(r"(?m)^RestrictAddressFamilies=(.+)$", unit):
        filters.append(network := Filter(ALLOW))
        known = {int(getattr(socket, name)) for name in families[1].split()}
        for family in set(range(46)) - known:
            network.rule(fail(errno.EAFNOSUPPORT), "socket", Comparison(0, EQUAL, family))

    for one in reversed(filters):  # the strictest last: it may forbid loading more
        one.load()


if __name__ == "__main__":
    enter(Path(sys.argv[1]).read_text())
    os.execvp(sys.argv[2], sys.argv[2:])  # noqa: S606 - the command is the caller's
