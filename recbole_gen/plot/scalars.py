"""What TensorBoard's events in a run's folder say, by epoch."""

from __future__ import annotations

from pathlib import Path

Series = dict[int, float]
"""A value by epoch, counted from 1."""


def read_scalars(folder: Path) -> dict[str, Series]:
    """All scalars of the TensorBoard events in a run's folder, by tag; of an epoch written twice, the later one."""
    if not any(folder.glob("events.out.tfevents.*")):
        return {}
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})  # 0: keep all of them
    events.Reload()
    # The steps of the events are those of RecBole, from 0.
    return {tag: {event.step + 1: event.value for event in events.Scalars(tag)} for tag in events.Tags()["scalars"]}
