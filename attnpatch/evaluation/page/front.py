"""Pareto fronts: the points that no other point beats in what they cost and in what they score."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

Point = tuple[float | None, float | None]  # cost or speed, score
EQUAL = 0.02  # costs this close are the same: methods matched to a budget miss it by a little


def pareto(points: Mapping[Hashable, Point], *, low_x: bool, low_y: bool) -> set[Hashable]:
    """Names of the points that no other is at least as good as in both and better in one.

    low_x, low_y: the smaller value is the better one. x within `EQUAL` of each other count as the same. Points without
    a value are on no front; equal ones share it.
    """
    signs = (-1 if low_x else 1, -1 if low_y else 1)
    known = {
        name: (signs[0] * point[0], signs[1] * point[1]) for name, point in points.items() if None not in tuple(point)
    }
    return {name for name, point in known.items() if not any(_beats(other, point) for other in known.values())}


def _beats(one: tuple[float, float], other: tuple[float, float]) -> bool:
    slack = EQUAL * abs(other[0])
    if one[0] < other[0] - slack or one[1] < other[1]:
        return False
    return one[1] > other[1] or one[0] > other[0] + slack
