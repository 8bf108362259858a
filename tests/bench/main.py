"""Measures pgfleet beside its references on sandbox hosts, in one run, and prints one table."""

import argparse
import os
import platform
import signal
import sys
import time

import gaps
import idle
import many
import nothing
from lab import HERE, WORK, Failed, Lab, note
from table import Table

PARTS = ["bootstrap", "apply", "many", "idle", "gaps"]
ROUND_TRIP_MS = 80
MANY = 200

# How quick Patroni is: its defaults, and the lowest that it accepts.
DEFAULT = {"ttl": 30, "loop_wait": 10, "retry_timeout": 10, "haproxy_check_interval_ms": 3000}
LOWEST = {"ttl": 20, "loop_wait": 1, "retry_timeout": 3, "haproxy_check_interval_ms": 1000}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, prog="tests/bench/run")
    parser.add_argument(
        "--only", metavar="PART", action="append", choices=PARTS,
        help=f"one of {', '.join(PARTS)}; may be repeated",
    )
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each fault [default: 3]")
    parser.add_argument(
        "--without-references", action="store_true",
        help="neither Ansible nor Patroni: quick, for work on pgfleet itself",
    )
    return parser.parse_args()


def load():
    return f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"


def patroni_set_up(lab, speed):
    # In plain text: an easier task than ours.
    settings = {**speed, "tls": "false"}
    extra = [word for name, value in settings.items() for word in ("-e", f"{name}={value}")]
    lab.pgfleet("run", "site.yml", *extra, cwd=HERE / "patroni")


def patroni_switch_over(lab, leader):
    candidate = next(host for host in lab.groups()["postgres"] if host != leader)
    words = f"--leader {leader} --candidate {candidate} --force"
    lab.on(leader, f"patronictl -c /etc/patroni/config.yml switchover {words}")


def own_switch_over(lab, leader):
    lab.pgfleet("switchover")


class Bench:
    def __init__(self, chosen):
        self.parts = chosen.only or PARTS
        self.count = chosen.rounds
        self.references = not chosen.without_references
        self.own = Lab("bench-pgfleet")
        self.patroni = Lab("bench-patroni")
        self.alone = Lab("bench-alone")
        self.many_hosts = many.ManyLab("bench-many", MANY)
        self.labs = [self.own, self.patroni, self.alone, self.many_hosts]
        self.table = Table()
        self.load_before = os.getloadavg()[0]
        self.notes = []
        self.left_out = [part for part in PARTS if part not in self.parts]
        if not self.references:
            self.left_out.append("Ansible and Patroni, as asked")

    def run(self):
        for lab in self.labs:
            lab.remove()
        needs_patroni = self.references and {"idle", "gaps"} & set(self.parts)
        if needs_patroni:
            # First, so that all packages are cached by the time the bootstrap is measured.
            note(f"setting up Patroni on seven hosts ({load()})")
            self.patroni.boot()
            patroni_set_up(self.patroni, DEFAULT)
        self.bootstrap(cached=bool(needs_patroni))
        contenders = [gaps.Contender("pgfleet", self.own, own_switch_over, "https")]
        if needs_patroni:
            contenders += self.patronis()
        measures = {
            "apply": self.apply,
            "many": self.many,
            "idle": lambda: self.idle(contenders[:2]),
            "gaps": lambda: self.gaps(contenders),
        }
        # In the order that was asked for; the bootstrap comes before all.
        for part in self.parts:
            if part in measures:
                measures[part]()

    def patronis(self):
        def contender(title, speed):
            def prepare():
                patroni_set_up(self.patroni, speed)
                # Its members take new settings up in their next loop, which is at most 10 s away.
                time.sleep(11)

            return gaps.Contender(title, self.patroni, patroni_switch_over, "http", prepare)

        return [contender("Patroni, defaults", DEFAULT), contender("Patroni, lowest", LOWEST)]

    def bootstrap(self, cached):
        measured = "bootstrap" in self.parts
        if measured and not cached:
            note("filling the cache of packages")
            self.own.boot()
            self.own.pgfleet("bootstrap", "--tags", "packages")
        note(f"bootstrap of seven hosts ({load()})")
        self.own.boot()
        started = time.monotonic()
        report = self.own.pgfleet("bootstrap")
        took = time.monotonic() - started
        packages = sum(play["seconds"] for play in report["plays"] if play["name"] == "Packages")
        plays = [f"{play['name']} {play['seconds']:.1f} s" for play in report["plays"]]
        note(f"  {took:.1f} s: {', '.join(plays)}")
        if not measured:
            return
        self.table.row(
            "bootstrap of 7 hosts, packages cached", [took], "s",
            "its play `Packages`, the slowest host", [packages], "≤ 1.5×", 1.5, by_ratio=True,
        )
        host = next(iter(self.own.groups()["postgres"]))
        self.alone.boot(host)
        started = time.monotonic()
        self.alone.pgfleet("apply", "--tags", "packages", "--limit", host)
        alone = time.monotonic() - started
        self.alone.remove()
        self.table.more(f"packages of {host} alone on this machine", [alone], [took], "s")
        self.notes.append(
            f"The seven sandbox hosts share {os.cpu_count()} cores, so all installations together take longer "
            "than one alone; on machines of their own they do not. The budget is held against the play within "
            "the same bootstrap."
        )

    def apply(self):
        note(f"nothing to change ({load()})")
        times, looked_at = nothing.rounds(self.own, 2 * self.count + 1, self.count if self.references else 0)
        self.table.row(
            "apply, nothing to change, 7 hosts", times["pgfleet"], "s",
            "ssh HOST true, in parallel", times["ssh"], "≤ 2×", 2, by_ratio=True,
        )
        if times["Ansible"]:
            self.table.more("Ansible, equal content", times["Ansible"], times["pgfleet"], "s")
            self.notes.append(
                f"Nothing to change: pgfleet looked at {looked_at['pgfleet']} steps, Ansible at "
                f"{looked_at['Ansible']} tasks. Ansible: 20 forks, pipelining, kept connections, facts once, "
                "no `serial`."
            )

        far = nothing.far_rounds(self.own, ROUND_TRIP_MS, 2 * self.count - 1)
        self.table.row(
            f"apply, nothing to change, {ROUND_TRIP_MS} ms away", far["pgfleet"], "s",
            "ssh HOST true, in parallel", far["ssh"], "≤ 2×", 2, by_ratio=True,
        )
        self.notes.append(
            f"{ROUND_TRIP_MS} ms away: through a relay in front of every sshd, which holds each byte back for "
            "half of it."
        )

    def many(self):
        note(f"{MANY} hosts ({load()})")
        times, memory = many.rounds(self.many_hosts, self.count)
        self.many_hosts.remove()
        self.table.row(
            f"plan, nothing to change, {MANY} hosts", times["pgfleet"], "s",
            f"ssh HOST true, {many.FORKS} at a time", times["ssh"], "≤ 2×", 2, by_ratio=True,
        )
        # The budget is for 1,000 hosts.
        self.table.row(f"memory of the control process, {MANY} hosts", memory, "MB", None, None, "≤ 300 MB", 300)
        self.notes.append(
            f"{MANY} hosts: the seven of the demo, and haproxy-1 under {MANY - 7} addresses, so that one sshd "
            "answers for most of them, on the cores that the control process has, too."
        )

    def idle(self, contenders):
        units = ["pgfleet-agent", "patroni"]
        note(f"idle for 60 s ({load()})")
        found = idle.measure(list(zip(contenders, units)), 60)

        def of(title, role, column):
            return [entry[column] for entry in found if entry[:2] == (title, role)]

        for column, what, unit, scale, limit, budget in [
            (2, "resident", "MB", 1, 20, "≤ 20 MB"), (3, "CPU, idle", "%", 100, 0.5, "≤ 0.5 %"),
        ]:
            for role in ["leader", "replica"]:
                own, *others = [[scale * value for value in of(c.title, role, column)] for c in contenders]
                beside = ("Patroni, defaults", others[0]) if others else (None, None)
                self.table.row(f"agent of a {role}: {what}", own, unit, *beside, budget, limit)

    def gaps(self, contenders):
        note(f"gaps between acknowledged commits ({load()})")
        self.own_ttl = contenders[0].configuration()["ttl"]
        found = {}
        try:
            gaps.rounds(contenders, self.count, found)
        finally:
            self.gap_rows([contender.title for contender in contenders], found)
        self.notes.append(
            "Writes stop: the longest time between two acknowledged commits of a client that writes every 20 ms "
            "through HAProxy and gives an attempt up after 1 s."
        )
        if len(contenders) > 1:
            self.notes.append(
                "Patroni of the distribution on equal hosts. Defaults: ttl 30, loop_wait 10, retry_timeout 10; "
                "HAProxy inter 3s fall 3 rise 2. Lowest: ttl 20, loop_wait 1, retry_timeout 3; HAProxy inter 1s "
                "fastinter 200ms downinter 500ms fall 2 rise 1."
            )

    def gap_rows(self, titles, found):
        ttl = self.own_ttl
        budgets = {
            "SIGKILL of the postmaster": ("≤ 1 s", 1),
            "switchover": ("≤ 0.5 s", 0.5),
            "power loss of the leader's host": (f"≤ {ttl + 1} s (ttl + 1)", ttl + 1),
        }
        for event, (budget, limit) in budgets.items():
            measured = [(title, found[title, event]) for title in titles if (title, event) in found]
            if not measured or measured[0][0] != titles[0]:
                continue
            own, *others = measured
            first = others[0] if others else (None, None)
            self.table.row(f"writes stop: {event}", own[1], "s", *first, budget, limit)
            for title, values in others[1:]:
                self.table.more(title, values, own[1], "s")

    def result(self, complete):
        lines = ["", self.table.render(), ""]
        if not complete:
            lines.append("! The run ended early; what is missing above was not measured.")
        lines += [f"* {text}" for text in self.notes]
        lines += [f"! budget missed: {text}" for text in self.table.missed]
        lines.append(f"Left out: {'; '.join(self.left_out) or 'nothing'}.")
        lines.append(
            f"Measured on {os.cpu_count()} cores, kernel {platform.release()}, in this one run; "
            f"the load was {self.load_before:.1f} before it. Above {os.cpu_count()}, others were at work and the "
            "times say little."
        )
        return "\n".join(lines)

    def clean_up(self):
        """However the run ended. A further Ctrl-C waits for it."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        for lab in self.labs:
            try:
                lab.remove()
            except Failed as error:
                note(str(error))


def ended(number, frame):
    raise KeyboardInterrupt


def main():
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, ended)
    bench = Bench(arguments())
    started = time.monotonic()
    code = 0
    try:
        bench.run()
    except Failed as error:
        note(f"the bench cannot go on: {error}")
        code = 1
    except KeyboardInterrupt:
        note("stopped; removing the hosts")
        code = 130
    finally:
        bench.clean_up()
    if bench.table.rows:
        text = bench.result(complete=code == 0)
        print(text)
        print(f"The run took {(time.monotonic() - started) / 60:.0f} minutes.")
        (WORK / "result.txt").write_text(text + "\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
