"""The hosts that are measured: a sandbox, pgfleet upon it, and a helper process within its network."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import yaml

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent
PGFLEET = os.environ["PGFLEET_BIN"]
WORK = Path(os.environ["BENCH_WORK"])
INVENTORY = "demo"


class Failed(Exception):
    """Something that the bench needs did not work; the text says what."""


def note(text):
    print(text, file=sys.stderr, flush=True)


# No folder `playbooks` or `templates` is here: what is measured is what the program has built in.
ELSEWHERE = WORK


def run(command, what, cwd=ELSEWHERE, env=None):
    """Runs a command to its end and returns what it wrote to standard output."""
    started = time.monotonic()
    ran = subprocess.run(
        [str(word) for word in command],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd=cwd, env=env,
    )
    if ran.returncode != 0:
        last = "\n".join((ran.stdout + ran.stderr).splitlines()[-40:])
        raise Failed(f"{what} ended with {ran.returncode} after {time.monotonic() - started:.0f} s:\n{last}")
    return ran.stdout


class Lab:
    """A sandbox with the hosts of inventories/demo.yml."""

    def __init__(self, name):
        self.name = name
        self.folder = WORK / name
        self.inventory = self.folder / "inventory.yml"
        self.helper = None

    def boot(self, host=None):
        """Boots all hosts of the inventory, or one alone."""
        self.remove()
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        shutil.copy(REPOSITORY / "inventories" / f"{INVENTORY}.yml", self.inventory)
        chosen = ["--host", f"{host}={self.address(host)}"] if host else ["-i", self.inventory]
        run([PGFLEET, "sandbox", "up", "--name", self.name, *chosen], f"booting {self.name}")

    def remove(self):
        if self.helper:
            self.helper.stdin.close()
            self.helper.wait()
            self.helper = None
        run([PGFLEET, "sandbox", "down", "--name", self.name], f"removing {self.name}")

    def groups(self):
        """The hosts of each group, with their addresses."""
        document = yaml.safe_load(self.inventory.read_text())
        children = document["all"]["children"]
        return {
            group: {host: entry["ansible_host"] for host, entry in content["hosts"].items()}
            for group, content in children.items()
        }

    def addresses(self):
        return {host: address for group in self.groups().values() for host, address in group.items()}

    def address(self, host):
        return self.addresses()[host]

    def variable(self, name):
        return yaml.safe_load(self.inventory.read_text())["all"]["vars"][name]

    def secret(self, name):
        return yaml.safe_load(self.inventory.with_suffix(".secrets.yml").read_text())[name]

    def pgfleet(self, command, *arguments, cwd=ELSEWHERE):
        """`pgfleet COMMAND` on the lab's hosts; returns what its JSON document says, if it prints one."""
        common = ["-y", "-i", self.inventory, "--sandbox", self.name, "--format", "json"]
        said = run([PGFLEET, command, *arguments, *common], f"pgfleet {command} in {self.name}", cwd=cwd)
        return json.loads(said) if said.strip() else None

    def sandbox(self, command, *arguments):
        return run([PGFLEET, "sandbox", command, "--name", self.name, *arguments], f"sandbox {command}")

    def on(self, host, command):
        """Standard output of a shell command on a host."""
        return self.sandbox("ssh", host, command).strip()

    def within(self, command, what, env=None):
        """Runs a program of this machine in the lab's network."""
        return run([PGFLEET, "sandbox", "exec", "--name", self.name, "--", *command], what, env=env)

    def files(self):
        """Where the sandbox keeps its key and known_hosts."""
        root = os.environ.get("PGFLEET_SANDBOX_DIR", "/var/lib/pgfleet/sandbox")
        return Path(root) / "sandboxes" / self.name

    def ssh_options(self):
        return [
            "-F", "/dev/null", "-o", "IdentitiesOnly=yes", "-o", "StrictHostKeyChecking=yes",
            "-o", f"UserKnownHostsFile={self.files() / 'known_hosts'}", "-i", str(self.files() / "key"),
        ]

    def ask(self, **request):
        """What the helper within the network answers."""
        if self.helper is None:
            self.helper = subprocess.Popen(
                [PGFLEET, "sandbox", "exec", "--name", self.name, "--", sys.executable, "-B", HERE / "inside.py"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ELSEWHERE,
            )
        print(json.dumps(request), file=self.helper.stdin, flush=True)
        line = self.helper.stdout.readline()
        if not line:
            raise Failed(f"the helper within {self.name} ended")
        reply = json.loads(line)
        if "error" in reply:
            raise Failed(reply["error"])
        return reply["answer"]


class FarLab(Lab):
    """The hosts of another lab behind a relay that makes them far away. A context: the relay runs within it."""

    def __init__(self, lab, round_trip_ms):
        super().__init__(lab.name)
        self.inventory = lab.folder / "far.yml"
        self.round_trip_ms = round_trip_ms
        self.relay = None
        self._write(lab)

    def _write(self, lab):
        document = yaml.safe_load(lab.inventory.read_text())
        self.targets = {}
        known = (lab.files() / "known_hosts").read_text()
        for group in document["all"]["children"].values():
            for entry in group["hosts"].values():
                near = entry["ansible_host"]
                far = f"127.1.0.{len(self.targets) + 1}"
                self.targets[far] = near
                # What the hosts call each other stays as it is.
                entry.update(ansible_host=far, address=near)
        self.inventory.write_text(yaml.safe_dump(document, sort_keys=False))
        shutil.copy(lab.inventory.with_suffix(".secrets.yml"), self.inventory.with_suffix(".secrets.yml"))
        for far, near in self.targets.items():
            if f"{far} " not in known:
                keys = next(line for line in known.splitlines() if f",{near} " in line)
                known += f"{far} {keys.split(' ', 1)[1]}\n"
        (lab.files() / "known_hosts").write_text(known)

    def __enter__(self):
        pairs = [f"{far}={near}" for far, near in self.targets.items()]
        command = [PGFLEET, "sandbox", "exec", "--name", self.name, "--", sys.executable, "-B", HERE / "far.py"]
        self.relay = subprocess.Popen(
            [*command, str(self.round_trip_ms / 2), *pairs], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        if self.relay.stdout.readline() != "ready\n":
            raise Failed("the relay that makes hosts far away did not start")
        return self

    def __exit__(self, *failure):
        self.relay.stdin.close()
        self.relay.wait()
