"""A run that changes nothing: pgfleet, plain SSH, and Ansible, one after the other in every round."""

import os
import re
import sys
import time
from pathlib import Path

from lab import HERE, PGFLEET, FarLab, Failed, note, run

ANSIBLE = Path(sys.executable).with_name("ansible-playbook")


def timed(action):
    started = time.monotonic()
    action()
    return time.monotonic() - started


def apply(lab):
    report = lab.pgfleet("apply")
    changes = {host: tally["changes"] for host, tally in report["hosts"].items() if tally["changes"]}
    if changes:
        raise Failed(f"an apply after an apply changed something: {changes}")


def steps(report):
    """How many steps a run looked at, over all hosts."""
    return sum(tally["unchanged"] + len(tally["changes"]) for tally in report["hosts"].values())


def ssh(lab):
    """`ssh HOST true` on all hosts at the same time."""
    command = ["xargs", "-P", "20", "-I", "{}", "ssh", *lab.ssh_options(), "root@{}", "true"]
    addresses = "\\n".join(lab.addresses().values())
    quoted = " ".join(f"'{word}'" for word in command)
    lab.within(["sh", "-c", f"printf '{addresses}\\n' | {quoted}"], "ssh HOST true")


def ansible(lab, changed_allowed=False):
    folder = lab.folder / "ansible"
    folder.mkdir(exist_ok=True)
    options = " ".join(lab.ssh_options() + ["-o", "ControlMaster=auto", "-o", "ControlPersist=20s"])
    environment = dict(
        os.environ,
        ANSIBLE_CONFIG=str(HERE / "ansible/ansible.cfg"),
        ANSIBLE_HOME=str(folder),
        ANSIBLE_SSH_ARGS=options,
        ANSIBLE_SSH_CONTROL_PATH_DIR=str(folder / "cp"),
        LC_ALL="C.UTF-8",
    )
    command = [ANSIBLE, "-i", lab.inventory, HERE / "ansible/site.yml", "-e", f"program={Path(PGFLEET).resolve()}"]
    said = lab.within(command, "ansible-playbook", env=environment)
    counts = re.findall(r"ok=(\d+)\s+changed=(\d+)", said)
    if len(counts) != len(lab.addresses()):
        raise Failed(f"ansible-playbook did not report on every host:\n{said[-2000:]}")
    changed = sum(int(changed) for _, changed in counts)
    if changed and not changed_allowed:
        raise Failed(f"Ansible's playbook changes something every time:\n{said[-4000:]}")
    return sum(int(ok) for ok, _ in counts)


def prepare(lab):
    """Python on the hosts, for Ansible alone, and what its playbook makes."""
    run(
        [PGFLEET, "run", HERE / "ansible/prepare.yml", "-y", "-i", lab.inventory, "--sandbox", lab.name],
        "installing Python on the hosts",
    )
    ansible(lab, changed_allowed=True)


def far_rounds(lab, round_trip_ms, count):
    """Seconds by contender, with hosts that are so far away."""
    times = {"pgfleet": [], "ssh": []}
    with FarLab(lab, round_trip_ms) as far:
        for number in range(count):
            times["ssh"].append(timed(lambda: ssh(far)))
            times["pgfleet"].append(timed(lambda: apply(far)))
            last = ", ".join(f"{who} {took[-1]:.2f} s" for who, took in times.items())
            note(f"nothing to change at {round_trip_ms} ms, round {number + 1} of {count}: {last}")
    return times


def rounds(lab, count, ansible_count):
    """Seconds by contender, and how many steps each looked at."""
    looked_at = {"pgfleet": steps(lab.pgfleet("apply"))}
    if ansible_count:
        prepare(lab)
    times = {"pgfleet": [], "ssh": [], "Ansible": []}
    for number in range(count):
        times["ssh"].append(timed(lambda: ssh(lab)))
        times["pgfleet"].append(timed(lambda: apply(lab)))
        said = f"pgfleet {times['pgfleet'][-1]:.2f} s, ssh {times['ssh'][-1]:.2f} s"
        if number < ansible_count:
            started = time.monotonic()
            looked_at["Ansible"] = ansible(lab)
            times["Ansible"].append(time.monotonic() - started)
            said += f", Ansible {times['Ansible'][-1]:.1f} s"
        note(f"nothing to change, round {number + 1} of {count}: {said}")
    return times, looked_at
