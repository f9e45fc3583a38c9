"""Health: whether a run, or a part of it, keeps to what its feed declares."""

from __future__ import annotations

from collections.abc import Iterator

from schemas.feed import Health


def complaints(health: Health, refused: float | None, quality: float | None) -> Iterator[str]:
    """A line for each limit that is not kept; None is a share of nothing, which keeps every limit.

    `refused` is the share of the records that became dead letters, `quality` the mean quality score.

    >>> list(complaints(Health(most_refused=0.1, least_quality=0.7), refused=0.125, quality=0.9))
    ['12.5 % of the records are refused, more than 10 %']
    """
    if refused is not None and refused > health.most_refused:
        yield f"{_percent(refused)} of the records are refused, more than {_percent(health.most_refused)}"
    if quality is not None and quality < health.least_quality:
        yield f"the mean quality is {_percent(quality)}, less than {_percent(health.least_quality)}"


def share(part: float, whole: float) -> float | None:
    """The part as a share; None of nothing."""
    return part / whole if whole else None


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
