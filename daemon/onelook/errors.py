"""Errors that are somebody's to mend, told in one clear sentence and never as a traceback."""


class OwnerError(Exception):
    """The owner's mistake: a config, model, gallery or picture that cannot be used (exit code 78)."""


class BusyError(OwnerError):
    """Another process holds a file just now; the same call works a moment later."""
