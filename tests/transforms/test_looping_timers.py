"""What a looping timer tells the runner: when it fires, and up to where it holds the watermark."""

from __future__ import annotations

from apache_beam.coders import StrUtf8Coder
from apache_beam.coders.coder_impl import create_InputStream
from apache_beam.coders.coders import _TimerCoder
from apache_beam.runners.worker.bundle_processor import OutputTimer
from apache_beam.runners.worker.data_plane import SizeBasedBufferingClosableOutputStream
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.window import GlobalWindow, GlobalWindows
from apache_beam.utils.timestamp import Timestamp
from apache_beam.utils.windowed_value import PANE_INFO_UNKNOWN

from transforms.looping_timers import fire_after


def test_a_timer_holds_the_watermark_where_it_is_told_and_not_at_the_element_at_hand():
    sent: list[bytes] = []
    stream = SizeBasedBufferingClosableOutputStream(sent.append)
    coder = _TimerCoder(StrUtf8Coder(), GlobalWindows().get_window_coder()).get_impl()
    element, hold = Timestamp(1_000), Timestamp(1_330_560_000)
    timer = OutputTimer(
        "traffic-raw", GlobalWindow(), element, PANE_INFO_UNKNOWN, TimeDomain.REAL_TIME, "next", coder, stream
    )
    before = Timestamp.now()
    fire_after(5, timer, hold)
    stream.close()
    told = coder.decode_from_stream(create_InputStream(b"".join(sent)), True)
    assert told.hold_timestamp == hold
    assert before + 4.999 <= told.fire_timestamp <= Timestamp.now() + 5  # the protocol counts milliseconds
