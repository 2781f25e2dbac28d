"""What state a device is in: clocks, heat, power, memory, and whether it is being throttled.

Every field is None where the driver does not tell (a CPU, Jetson, containers); nothing is ever a stand-in 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

THROTTLING = {
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x20: "software thermal",
    0x40: "hardware thermal",
    0x80: "power brake",
}
"""Bits of NVML's clock event reasons that mean the device is slower than it could be. Idle (0x1) and clocks
set by an application (0x2) are not among them."""

POWER_CAP = THROTTLING[0x4]
"""Many boards are at it whenever they work (T4, L4, laptops): it is their speed, and no disturbance."""


@dataclass(frozen=True)
class Condition:
    """The device at one moment."""

    sm_clock_mhz: int | None = None
    memory_clock_mhz: int | None = None
    temperature_c: int | None = None
    power_w: float | None = None
    energy_mj: int | None = None  # counter, since the driver was loaded
    used_bytes: int | None = None  # device memory in use by everyone, the driver's own left out
    throttle_reasons: tuple[str, ...] | None = None  # values of THROTTLING that hold now
    violation_ns: int | None = None  # counter: time spent below the clocks asked for, for heat


def throttled(before: Condition, after: Condition) -> bool:
    """Whether heat or a fault held the device back at either moment or, by its counter, in between."""
    reasons = {*(before.throttle_reasons or ()), *(after.throttle_reasons or ())}
    if reasons - {POWER_CAP}:
        return True
    if before.violation_ns is None or after.violation_ns is None:
        return False
    return after.violation_ns > before.violation_ns


def power_capped(before: Condition, after: Condition) -> bool:
    """Whether the device was at its power limit at either moment."""
    return POWER_CAP in (before.throttle_reasons or ()) or POWER_CAP in (after.throttle_reasons or ())


def condition_facts(conditions: Sequence[Condition]) -> dict[str, str | int | float | None]:
    """What the provenance of a table keeps of the conditions during its measurement; None where not told."""

    def of(name: str, reduce: Callable[[list[float]], float]) -> float | None:
        told = [value for condition in conditions if (value := getattr(condition, name)) is not None]
        return reduce(told) if told else None

    reasons = sorted({reason for condition in conditions for reason in condition.throttle_reasons or ()})
    return {
        "sm_clock_mhz_min": of("sm_clock_mhz", min),
        "sm_clock_mhz_max": of("sm_clock_mhz", max),
        "memory_clock_mhz_min": of("memory_clock_mhz", min),
        "temperature_c_max": of("temperature_c", max),
        "power_w_max": of("power_w", max),
        "throttle_reasons": ", ".join(reasons) or None,
    }
