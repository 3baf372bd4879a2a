"""Errors that are somebody's to mend, told in one clear sentence and never as a traceback."""


class OwnerError(Exception):
    """The owner's mistake: a config, model, gallery or picture that cannot be used (exit code 78)."""


class BusyError(OwnerError):
    """What is needed cannot be had just now, as a file that another holds; the same call works later (exit code 75)."""


class GalleryError(OwnerError):
    """A gallery, key or name that cannot be used."""
