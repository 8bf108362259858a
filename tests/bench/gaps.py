"""How long writes stop: the longest time between two acknowledged commits, seen by a client of HAProxy."""

import time

from lab import Failed, note

COMES_BACK = 120
# A fault, and the next one, do not touch each other.
SETTLE = 3


class Contender:
    """A cluster under the client: how its members are asked, and how an operator switches it over."""

    def __init__(self, title, lab, switch_over, scheme, prepare=lambda: None):
        self.title = title
        self.scheme = scheme
        self.lab = lab
        self.switch_over = switch_over
        self.prepare = prepare

    def members(self):
        """What any member that answers says of all; nothing when none does."""
        for address in self.lab.groups()["postgres"].values():
            try:
                return self.lab.ask(do="get", url=f"{self.scheme}://{address}:8008/cluster")["members"]
            except Failed:
                continue
        return []

    def leader(self):
        leaders = [member["name"] for member in self.members() if member["role"] == "leader"]
        if len(leaders) != 1:
            raise Failed(f"{self.title}: expected one leader, found {leaders}")
        return leaders[0]

    def configuration(self):
        """The dynamic configuration, as the cluster says it."""
        address = next(iter(self.lab.groups()["postgres"].values()))
        return self.lab.ask(do="get", url=f"{self.scheme}://{address}:8008/config")

    def until_whole(self):
        """Waits until one leads and all others stream from it."""
        expected = len(self.lab.groups()["postgres"])
        deadline = time.monotonic() + COMES_BACK
        while True:
            members = self.members()
            leads = [m for m in members if m["role"] == "leader" and m["state"] == "running"]
            timelines = {m.get("timeline") for m in members}
            streams = [m for m in members if m["state"] == "streaming"]
            if len(leads) == 1 and len(streams) == expected - 1 and len(timelines) == 1:
                time.sleep(SETTLE)
                return
            if time.monotonic() > deadline:
                raise Failed(f"{self.title} is not whole after {COMES_BACK} s: {members}")
            time.sleep(0.2)

    def conninfo(self):
        lab = self.lab
        [entry] = lab.groups()["haproxy"].values()
        port, password = lab.variable("haproxy_primary_port"), lab.secret("superuser_password")
        return f"host={entry} port={port} user=postgres dbname=postgres password={password} sslmode=prefer"


def kill_postmaster(contender, leader):
    contender.lab.on(leader, "kill -KILL $(pgrep -o -x postgres)")


def switch_over(contender, leader):
    contender.switch_over(contender.lab, leader)


def power_loss(contender, leader):
    contender.lab.sandbox("kill", leader)


def power_on(contender, leader):
    contender.lab.sandbox("start", leader)


def nothing(contender, leader):
    pass


# (name, what is done, what repairs it)
EVENTS = [
    ("SIGKILL of the postmaster", kill_postmaster, nothing),
    ("switchover", switch_over, nothing),
    ("power loss of the leader's host", power_loss, power_on),
]


def measure(contender, event):
    """The longest gap around one event, in seconds, and what else the client saw."""
    name, happens, repair = event
    contender.until_whole()
    leader = contender.leader()
    contender.lab.ask(do="write", conninfo=contender.conninfo(), limit=60)
    # Some ordinary writes first; the client is connected by then.
    contender.lab.ask(do="await", after=time.monotonic() + 1, limit=60)
    happens(contender, leader)
    contender.lab.ask(do="await", after=time.monotonic() + 1, limit=COMES_BACK)
    # What still follows of the change, such as a connection that is closed late, belongs to the gap.
    contender.lab.ask(do="await", after=time.monotonic() + 2, limit=COMES_BACK)
    seen = contender.lab.ask(do="stop")
    repair(contender, leader)
    note(f"  {contender.title}: {name}: {seen['gap']:.2f} s, {seen['failed']} attempts failed {seen['reasons']}")
    return seen


def rounds(contenders, count, gaps):
    """Interleaved rounds; fills in the gaps by (title, event)."""
    for number in range(1, count + 1):
        note(f"gaps, round {number} of {count}")
        for contender in contenders:
            contender.prepare()
            for event in EVENTS:
                seen = measure(contender, event)
                gaps.setdefault((contender.title, event[0]), []).append(seen["gap"])
