"""How many steps does a budget buy? One search, for benchmarks (the nearest cost) and for steering (the most that fits)."""

from __future__ import annotations

from collections.abc import Callable

MOST = 1000


def nearest(cost: Callable[[int], float], budget: float, *, most: int = MOST) -> int:
    """The number of steps whose cost is nearest to the budget; the smaller one of two equally near. See `affordable`."""
    known, _ = _searched(cost, budget, 1, most, exact=True)
    return min(known, key=lambda steps: (abs(known[steps] - budget), steps))


def affordable(cost: Callable[[int], float], budget: float, *, least: int = 1, most: int = MOST) -> int:
    """The largest number of steps, of those from `least` to `most`, whose cost is within the budget; 0 if there is none.

    Args:
        cost: of so many steps, non-decreasing. Few are asked for, and none of more than about four times as many steps as are
            needed: along the line through two that are known, and between two that enclose the budget.
    """
    if most < least:
        return 0
    known, low = _searched(cost, budget, least, most, exact=False)
    return low if known[low] <= budget else 0


def _searched(
    cost: Callable[[int], float], budget: float, least: int, most: int, *, exact: bool
) -> tuple[dict[int, float], int]:
    """Costs of the numbers of steps that were asked for, and the largest one that fits (or the least).

    Args:
        exact: a cost that is the budget is good enough; else more steps of the same cost are looked for.
    """
    known = {steps: cost(steps) for steps in sorted({min(max(2, least), most), min(max(4, least), most)})}
    while (known[top := max(known)] < budget or (known[top] == budget and not exact)) and top < most:
        below = max((s for s in known if s < top), default=0)
        slope = (known[top] - known.get(below, 0)) / (top - below)
        guess = top + round((budget - known[top]) / slope) if slope > 0 else most
        guess = min(max(guess, top + 1), 4 * top, most)
        known[guess] = cost(guess)
    if known[min(known)] > budget and least not in known:
        known[least] = cost(least)
    low = max((s for s in known if known[s] <= budget), default=min(known))
    high = min((s for s in known if known[s] > budget), default=max(known))
    halve = False
    while high - low > 1:
        share = 0.5 if halve else (budget - known[low]) / (known[high] - known[low])
        guess = min(max(low + round(share * (high - low)), low + 1), high - 1)
        known[guess] = cost(guess)
        low, high = (guess, high) if known[guess] <= budget else (low, guess)
        halve = not halve  # a bent cost would leave one end where it is
    return known, low
