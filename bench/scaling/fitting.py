"""Costs from measurements: what each unit of work must cost so that what was used comes out."""

from collections.abc import Sequence


def solved(rows: Sequence[Sequence[float]], used: Sequence[float]) -> list[float]:
    """What one of each kind costs: `rows` has how many of each kind a measurement had, `used` what it took.

    By least squares, where there are more measurements than kinds. A cost below 0 is noise and becomes 0; the
    others are then found without that kind. Raises ValueError if the measurements do not tell kinds apart.
    """
    kinds = list(range(len(rows[0])))
    while kinds:
        found = _least_squares([[row[kind] for kind in kinds] for row in rows], used)
        lowest = min(found)
        if lowest >= 0:
            return [found[kinds.index(kind)] if kind in kinds else 0.0 for kind in range(len(rows[0]))]
        kinds.pop(found.index(lowest))
    return [0.0] * len(rows[0])


def _least_squares(rows: Sequence[Sequence[float]], used: Sequence[float]) -> list[float]:
    """Solves the normal equations, by Gauss."""
    count = len(rows[0])
    scale = [max(abs(row[kind]) for row in rows) or 1.0 for kind in range(count)]
    even = [[value / scale[kind] for kind, value in enumerate(row)] for row in rows]
    system = [
        [sum(row[i] * row[j] for row in even) for j in range(count)]
        + [sum(row[i] * took for row, took in zip(even, used, strict=True))]
        for i in range(count)
    ]
    for i in range(count):
        pivot = max(range(i, count), key=lambda row: abs(system[row][i]))
        system[i], system[pivot] = system[pivot], system[i]
        if abs(system[i][i]) < 1e-12:
            raise ValueError(f"the measurements do not tell the kinds of work apart: {rows}")
        for row in range(count):
            if row != i:
                factor = system[row][i] / system[i][i]
                system[row] = [a - factor * b for a, b in zip(system[row], system[i], strict=True)]
    return [system[i][count] / system[i][i] / scale[i] for i in range(count)]
