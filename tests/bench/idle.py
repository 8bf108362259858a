"""What the process beside PostgreSQL needs while nothing happens."""

import re
import time

from lab import Failed

TICKS_PER_SECOND = 100


def process(lab, host, unit):
    """(resident KiB, CPU ticks of the process and of its finished children) of a unit's main process."""
    text = lab.on(
        host, f"pid=$(systemctl show -p MainPID --value {unit}); grep VmRSS /proc/$pid/status; cat /proc/$pid/stat"
    )
    resident = re.search(r"VmRSS:\s+(\d+) kB", text)
    if not resident:
        raise Failed(f"{unit} does not run on {host}")
    fields = text.rsplit(")", 1)[1].split()
    return int(resident[1]), sum(int(ticks) for ticks in fields[11:15])


def measure(contenders, seconds):
    """[(title, role, resident MB, CPU as a share of one core)]; all are watched over the same time."""
    watched = []
    for contender, unit in contenders:
        contender.until_whole()
        for member in contender.members():
            watched.append((contender, unit, member["name"], "leader" if member["role"] == "leader" else "replica"))
    before = [(time.monotonic(), process(c.lab, host, unit)[1]) for c, unit, host, _ in watched]
    time.sleep(seconds)
    found = []
    for (contender, unit, host, role), (at, ticks) in zip(watched, before):
        resident, now = process(contender.lab, host, unit)
        share = (now - ticks) / TICKS_PER_SECOND / (time.monotonic() - at)
        found.append((contender.title, role, resident * 1024 / 1e6, share))
    return found
