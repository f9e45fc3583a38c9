"""Timers of processing time that are set again when they fire: how a step of ours works without end.

A splittable DoFn that resumes itself does the same, but not for long on Flink: Beam's runner (2.62) keeps
what is left of it in keyed state under a new name each time, and Flink forgets no name. An idle job's
checkpoint grew by 66 kB a second, and past 32,767 names there is none.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import apache_beam as beam
from apache_beam.io.iobase import WatermarkEstimator
from apache_beam.io.restriction_trackers import OffsetRange, OffsetRestrictionTracker
from apache_beam.runners.worker.bundle_processor import OutputTimer
from apache_beam.transforms.core import RestrictionProvider, WatermarkEstimatorProvider
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.timestamp import Duration, Timestamp

NO_HOLD = GlobalWindow().max_timestamp() - Duration(seconds=1)
DAY_SECONDS = 86_400
FOREVER = 2**63 - 1


def fire_after(seconds: float, timer: OutputTimer, hold: Timestamp) -> None:
    """Sets the timer, and holds the output watermark until it has fired.

    Beam's protocol has a field for that; its Python SDK fills it with the time of the element at hand, whence
    the private name.
    """
    timer._input_timestamp = hold
    timer.set(Timestamp.now() + seconds)


class _Unbounded(OffsetRestrictionTracker):
    def try_split(self, fraction_of_remainder: float) -> Any:
        return super().try_split(0)  # behind what is claimed: nothing lies in the middle of what has no end

    def is_bounded(self) -> bool:
        return False


class _FromZero(RestrictionProvider):
    def initial_restriction(self, element: object) -> OffsetRange:
        return OffsetRange(0, FOREVER)

    def create_tracker(self, restriction: OffsetRange) -> OffsetRestrictionTracker:
        return _Unbounded(restriction)

    def restriction_size(self, element: object, restriction: OffsetRange) -> float:
        return 1.0


class _AtNoHold(WatermarkEstimator):
    def current_watermark(self) -> Timestamp:
        return NO_HOLD

    def get_estimator_state(self) -> None:
        return None

    def observe_timestamp(self, timestamp: Timestamp) -> None:
        pass


class _NoEventTime(WatermarkEstimatorProvider):
    def initial_estimator_state(self, element: object, restriction: OffsetRange) -> None:
        return None

    def create_watermark_estimator(self, estimator_state: None) -> WatermarkEstimator:
        return _AtNoHold()


class _StayOpen(beam.DoFn):
    @beam.DoFn.unbounded_per_element()
    def process(
        self,
        element: object,
        tracker=beam.DoFn.RestrictionParam(_FromZero()),  # noqa: B008
        _estimator=beam.DoFn.WatermarkEstimatorParam(_NoEventTime()),  # noqa: B008
    ) -> Iterable[object]:
        day = tracker.current_restriction().start
        if tracker.try_claim(day):
            if day == 0:
                yield element
            tracker.defer_remainder(Duration(seconds=DAY_SECONDS))


class StayOpen(beam.PTransform):
    """The same elements, which may be followed by others for ever: the watermark ends at `NO_HOLD`.

    That of an Impulse ends at the end of time, where a runner drops every timer that is still set.
    """

    def expand(self, elements: beam.PCollection) -> beam.PCollection:
        return elements | beam.ParDo(_StayOpen()).with_output_types(elements.element_type)
