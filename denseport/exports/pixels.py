"""A preprocessing in the terms of libraries that scale pixels to 0 to 1 first."""

from __future__ import annotations

from denseport.preprocessing import Preprocessing

USUAL_SIDE = 224


def unit_statistics(spec: Preprocessing, channels: int) -> tuple[list[float], list[float]]:
    """Mean and std of pixels that were divided by 255, one number a channel."""
    mean, std = spec.statistics(channels)
    of_unit = 1 / (255 * spec.scale)
    return [float(value * of_unit) for value in mean], [float(value * of_unit) for value in std]


def fault(library: str, spec: Preprocessing | None, channels: int) -> str:
    """Why a library that takes channels as RGB, and one figure for each, cannot prepare images so; "" where it can."""
    if spec is None:
        return "nothing says how the net's images are prepared, and so neither does the target"
    fits = channels == 1 or all(len(figures) in (1, channels) for figures in (spec.mean, spec.std))
    if fits and spec.channel_order == "rgb":
        return ""
    return f"{library} cannot prepare images as this net takes them, so the target does not say how"
