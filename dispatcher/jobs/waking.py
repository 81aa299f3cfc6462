"""When somebody is told that work waits at an endpoint, so that its upstream is woken. Pure."""

from dispatcher.jobs.endpoint import EndpointLoad, Wake


def due(load: EndpointLoad, wake: Wake, last_ms: int | None, *, at_ms: int) -> bool:
    """Whether somebody is to be told now: something waits, or runs already, at an endpoint that had
    nothing to do before (`last_ms` is None, else when that was told last); and again and again
    while what waits is not run. Times are by a clock that only grows. What has low priority wakes
    nobody."""
    if not is_at_work(load):
        return False
    if last_ms is None:
        return True
    is_served = load.running > 0 and load.unhealthy_ms is None
    return load.is_wanted and not is_served and at_ms - last_ms >= wake.every * 1000


def is_at_work(load: EndpointLoad) -> bool:
    """Whether an endpoint has anything to do that is worth waking it for."""
    return load.is_wanted or load.running + load.releasing > 0
