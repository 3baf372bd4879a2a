"""Log: a run's figures, in log.csv for good and as TensorBoard events where tensorboard is installed."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from itertools import chain
from pathlib import Path

try:
    from torch.utils.tensorboard import SummaryWriter
except ImportError:  # a GPU machine for an hour need not have it
    SummaryWriter = None


class Log:
    """Goes on with the figures that are there: a run that was killed has one log."""

    def __init__(self, run: Path, step: int) -> None:
        """run: its folder. step: the one that it goes on from; what TensorBoard was told of later ones is lost."""
        self._file = (run / "log.csv").open("a", newline="")
        self._table = csv.writer(self._file)
        self._board = SummaryWriter(str(run), purge_step=step + 1) if SummaryWriter else None

    def write(self, kind: str, step: int, seen: int, mark: object, figures: Mapping[str, float]) -> None:
        """Figures of a step. kind: what they are of, "train" or "held out". mark: third column of the table."""
        self._table.writerow([step, seen, mark, *chain(*figures.items())])
        self._file.flush()
        if self._board:
            for name, value in figures.items():
                self._board.add_scalar(f"{kind}/{name}", value, step)
            self._board.flush()
