"""What programs have cost that were started here and have ended. Shell."""

import resource

Times = resource.struct_rusage


def so_far() -> Times:
    return resource.getrusage(resource.RUSAGE_CHILDREN)


def since_ms(before: Times) -> dict[str, float]:
    """Return the processor time of all that ended since: their own, and the kernel's for them (milliseconds)."""
    now = so_far()
    own_s, kernel_s = now.ru_utime - before.ru_utime, now.ru_stime - before.ru_stime
    return {"own": own_s * 1e3, "kernel": kernel_s * 1e3}
