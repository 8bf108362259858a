"""A look at many hosts where nothing differs: most of them are one host under many addresses, through a relay."""

import json
import os
import subprocess
import sys
import time

import yaml

from lab import ELSEWHERE, HERE, PGFLEET, Failed, Lab, note

FORKS = 50


class ManyLab(Lab):
    """The demo's hosts, and `haproxy-1` again and again until there are `count`. A context: a relay runs within it."""

    def __init__(self, name, count):
        super().__init__(name)
        self.count = count
        self.relay = None

    def boot(self, host=None):
        super().boot(host)
        document = yaml.safe_load(self.inventory.read_text())
        # A certificate is one host's own; everything else is the same on all hosts of HAProxy.
        document["all"]["vars"]["tls"] = False
        hosts = document["all"]["children"]["haproxy"]["hosts"]
        real = hosts["haproxy-1"]["ansible_host"]
        known = self.files() / "known_hosts"
        keys = next(line.split(" ", 1)[1] for line in known.read_text().splitlines() if real in line.split(" ")[0])
        self.targets = {}
        for number in range(self.count - len(self.addresses())):
            last = f"{number // 250}.{number % 250 + 1}"
            self.targets[f"127.2.{last}"] = real
            hosts[f"many-{number + 1}"] = {"ansible_host": f"127.2.{last}", "address": f"10.201.{last}"}
        self.inventory.write_text(yaml.safe_dump(document, sort_keys=False))
        with known.open("a") as file:
            file.writelines(f"{address} {keys}\n" for address in self.targets)
        self.pgfleet("bootstrap", "--limit", "etcd:postgres:haproxy-1")
        # By default sshd turns connections away when more than ten are on their way in.
        self.on("haproxy-1", "echo MaxStartups 1000 > /etc/ssh/sshd_config.d/many.conf; systemctl reload ssh")

    def __enter__(self):
        pairs = [f"{address}={real}" for address, real in self.targets.items()]
        command = [PGFLEET, "sandbox", "exec", "--name", self.name, "--", sys.executable, "-B", HERE / "far.py", "0"]
        self.relay = subprocess.Popen([*command, *pairs], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if self.relay.stdout.readline() != "ready\n":
            raise Failed("the relay in front of the many hosts did not start")
        return self

    def __exit__(self, *failure):
        self.relay.stdin.close()
        self.relay.wait()


def plan(lab):
    """Seconds of a plan without a difference, and the most memory that its process had, in MB. It looks at the same
    steps as an apply, which would lock each host, and most of these are one."""
    common = ["-y", "-i", lab.inventory, "--sandbox", lab.name, "--format", "json", "--forks", str(FORKS)]
    report = lab.folder / "report.json"
    started = time.monotonic()
    with report.open("w") as file:
        process = subprocess.Popen(
            [str(word) for word in [PGFLEET, "plan", *common]],
            stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.PIPE, text=True, cwd=ELSEWHERE,
        )
        said = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
    took = time.monotonic() - started
    if status != 0:
        raise Failed(f"pgfleet plan on many hosts ended with status {status}:\n{said[-3000:]}")
    tallies = json.loads(report.read_text())["hosts"]
    changes = {host: tally["changes"] for host, tally in tallies.items() if tally["changes"]}
    if changes or len(tallies) != lab.count:
        raise Failed(f"{len(tallies)} hosts, of {lab.count}; what an apply did not leave alone: {changes}")
    return took, usage.ru_maxrss / 1024


def ssh(lab):
    command = ["xargs", "-P", str(FORKS), "-I", "{}", "ssh", *lab.ssh_options(), "root@{}", "true"]
    addresses = lab.folder / "addresses"
    addresses.write_text("\n".join(lab.addresses().values()) + "\n")
    quoted = " ".join(f"'{word}'" for word in command)
    started = time.monotonic()
    lab.within(["sh", "-c", f"{quoted} < {addresses}"], "ssh HOST true")
    return time.monotonic() - started


def rounds(lab, count):
    """Seconds by contender, and the memory of the control process in MB."""
    times, memory = {"pgfleet": [], "ssh": []}, []
    lab.boot()
    with lab:
        for number in range(count):
            times["ssh"].append(ssh(lab))
            took, most = plan(lab)
            times["pgfleet"].append(took)
            memory.append(most)
            note(f"{lab.count} hosts, round {number + 1}: {took:.1f} s, {most:.0f} MB, ssh {times['ssh'][-1]:.1f} s")
    return times, memory
