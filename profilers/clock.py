"""The clock that runs on a CPU are timed with."""

from __future__ import annotations

import time
from collections.abc import Callable


def clock_for(threads: int) -> tuple[str, Callable[[], int]]:
    """Name of a clock and the clock, in ns.

    One thread computes in the calling thread, so its processor time is the latency on a processor of its
    own: the monotonic clock, less the time in which the system let another process run. On two busy
    processors slopes by the monotonic clock differed by up to 100 % between two runs, as long networks were
    interrupted in every run and the reference was not; by processor time, in units of the reference, by at
    most 6 %, from a quiet machine as well. Several threads wait for each other, which is latency: there the
    monotonic clock counts.
    """
    # Where thread time is as coarse as a timer tick it is of no use.
    if threads == 1 and time.get_clock_info("thread_time").resolution < 1e-6:
        return "thread_time", time.thread_time_ns
    return "perf_counter", time.perf_counter_ns
