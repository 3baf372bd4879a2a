"""Match: what the gallery answers when asked who a face could be."""

from typing import NamedTuple


class Match(NamedTuple):
    """The enrolled person nearest to one face; whether near enough is for the asker to judge."""

    name: str | None
    """Name of the nearest person, however far; None if nobody is enrolled."""
    similarity: float
    """To that person, -1 to 1: the cosine, less what the two have in common with many others, see `onelook.cohort`;
    without meaning if there is no name."""
    margin: float
    """How much nearer that person is than the best other one; infinite if there is no other."""
    agreement: float = 1.0
    """Length of the mean of that person's templates before it was made unit length: 1 where all are the same."""
    enrolled: int = 1
    """How many people it is the nearest of: the more there are, the nearer somebody is by chance."""
