"""Assignment: of pairs that each have a worth, those that together are worth most.

SciPy has it too (`scipy.optimize.linear_sum_assignment`, against which this is tested), but would bring 40 MB
of memory and a third of the daemon's start for it alone.
"""

from heapq import heappop, heappush
from math import inf

import numpy as np
from numpy.typing import NDArray


def assign(worth: NDArray[np.float64]) -> list[tuple[int, int]]:
    """The pairs of rows and columns, of each at most one, whose worths (N, M) have the greatest sum.

    What is worth 0 or less is no pair. Row after row finds a column, or does without, along the shortest augmenting
    path (Jonker & Volgenant 1987, for sparse worths): a row's profit and a column's price are the duals, and a step is
    as long as both together are above the worth.
    """
    offers = [[(column, value) for column, value in enumerate(row) if value > 0] for row in worth.tolist()]
    profits: list[float] = []
    prices = [0.0] * worth.shape[1]
    owner: dict[int, int] = {}  # of a column
    has: dict[int, int] = {}  # row -> its column
    for start in range(len(offers)):
        profits.append(max([0.0, *(value - prices[column] for column, value in offers[start])]))
        shortest, last, free = inf, start, -1  # the row that ends the path, and the column that it finds free; -1: none
        away, taken_by = {start: 0.0}, {start: start}  # row -> how far it is, and who then takes what it has
        near, done = [(0.0, start)], set()
        while near and near[0][0] < shortest:
            far, row = heappop(near)
            if row in done:
                continue
            done.add(row)
            far += profits[row]
            if far < shortest:  # it does without
                shortest, last, free = far, row, -1
            for column, value in offers[row]:
                total = far + prices[column] - value
                other = owner.get(column)
                if total >= shortest:
                    continue
                if other is None:
                    shortest, last, free = total, row, column
                elif other not in done and total < away.get(other, inf):
                    away[other], taken_by[other] = total, row
                    heappush(near, (total, other))
        for row in done:
            profits[row] -= shortest - away[row]
        for row in done - {start}:
            prices[has[row]] += shortest - away[row]
        path = [last]
        while path[-1] != start:
            path.append(taken_by[path[-1]])
        columns = [free, *(has[row] for row in path[:-1])]
        has.pop(last, None)
        taken = [pair for pair in zip(path, columns, strict=True) if pair[1] >= 0]
        has.update(taken)
        owner.update((column, row) for row, column in taken)
    return list(has.items())
