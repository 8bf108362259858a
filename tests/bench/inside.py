"""Runs inside a sandbox's network: a client that writes row after row, and questions over HTTP.

Reads a JSON document per line from standard input and answers each with one on standard output. Ends when its
input ends. Times are those of CLOCK_MONOTONIC, which all processes of a machine share.
"""

import collections
import json
import select
import ssl
import sys
import threading
import time
import urllib.request

import psycopg
from psycopg import pq

# As the writer of the end to end tests.
PAUSE = 0.02
ATTEMPT_LIMIT = 1.0
CREATE = b"CREATE TABLE IF NOT EXISTS written (id bigint PRIMARY KEY, at timestamptz DEFAULT clock_timestamp())"


class Refused(Exception):
    """An attempt that was not acknowledged."""


class Connection:
    """One connection on which every wait has an end. libpq itself: nothing tries again behind its back."""

    def __init__(self, conninfo, deadline):
        self.libpq = pq.PGconn.connect_start(conninfo)
        try:
            self._connect(deadline)
        except BaseException:
            self.close()
            raise

    def _connect(self, deadline):
        turn = pq.PollingStatus.WRITING
        while turn != pq.PollingStatus.OK:
            if turn == pq.PollingStatus.FAILED:
                raise Refused(self._said())
            self._wait(turn == pq.PollingStatus.WRITING, deadline)
            turn = self.libpq.connect_poll()
        self.libpq.nonblocking = 1

    def run(self, sql, deadline):
        try:
            self.libpq.send_query(sql)
            while self.libpq.flush():
                self._wait(True, deadline)
            self._answers(deadline)
        except psycopg.Error as error:
            raise Refused(str(error)) from error

    def _answers(self, deadline):
        while True:
            while self.libpq.is_busy():
                self._wait(False, deadline)
                self.libpq.consume_input()
            result = self.libpq.get_result()
            if result is None:
                return
            if result.status != pq.ExecStatus.COMMAND_OK:
                raise Refused(result.error_message.decode(errors="replace"))

    def _wait(self, to_write, deadline):
        socket = self.libpq.socket
        left = deadline - time.monotonic()
        reading, writing = ([], [socket]) if to_write else ([socket], [])
        if left <= 0 or not any(select.select(reading, writing, [], left)):
            raise Refused("no acknowledgement within the limit")

    def _said(self):
        return self.libpq.error_message.decode(errors="replace")

    def close(self):
        self.libpq.finish()


class Writer:
    """Writes until it is stopped; keeps when each acknowledgement came and why attempts failed."""

    def __init__(self, conninfo):
        self.conninfo = conninfo.encode()
        self.acknowledged = []
        self.failed = []
        self.changed = threading.Condition()
        self.stopping = False
        self.connection = None
        self.thread = threading.Thread(target=self._write, daemon=True)
        self.thread.start()

    def await_acknowledgement(self, after, limit):
        deadline = time.monotonic() + limit
        with self.changed:
            while not (self.acknowledged and self.acknowledged[-1] > after):
                left = deadline - time.monotonic()
                if left <= 0:
                    last = self.failed[-1][1] if self.failed else "nothing was tried"
                    raise TimeoutError(f"no write was acknowledged for {limit} s; the last failure: {last}")
                self.changed.wait(left)
            return self.acknowledged[-1]

    def stop(self):
        self.stopping = True
        self.thread.join()
        if self.connection:
            self.connection.close()
        times = self.acknowledged
        gaps = [later - earlier for earlier, later in zip(times, times[1:])]
        reasons = collections.Counter(why for _, why in self.failed)
        return {
            "gap": max(gaps, default=0.0),
            "usual_gap": sorted(gaps)[len(gaps) // 2] if gaps else 0.0,
            "acknowledged": len(times),
            "failed": len(self.failed),
            "reasons": dict(reasons.most_common(5)),
        }

    def _write(self):
        # Rows of an earlier writer stay; this one's numbers begin where the clock is.
        row = time.time_ns() // 1000
        while not self.stopping:
            row += 1
            self._attempt(row)
            time.sleep(PAUSE)

    def _attempt(self, row):
        deadline = time.monotonic() + ATTEMPT_LIMIT
        try:
            if self.connection is None:
                self.connection = Connection(self.conninfo, deadline)
                # Fails on a standby, and is no news on the node that has the table.
                self.connection.run(CREATE, deadline)
            self.connection.run(f"INSERT INTO written (id) VALUES ({row})".encode(), deadline)
        except (Refused, psycopg.Error) as error:
            if self.connection:
                self.connection.close()
                self.connection = None
            with self.changed:
                self.failed.append((time.monotonic(), " ".join(str(error).split())))
            return
        with self.changed:
            self.acknowledged.append(time.monotonic())
            self.changed.notify_all()


# How quick an answer is is measured, not from whom it comes.
ANYBODY = ssl._create_unverified_context()


def get(url):
    with urllib.request.urlopen(url, timeout=2, context=ANYBODY) as answer:
        return json.load(answer)


def main():
    writer = None
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            match asked["do"]:
                case "write":
                    writer = Writer(asked["conninfo"])
                    answer = writer.await_acknowledgement(0.0, asked["limit"])
                case "await":
                    answer = writer.await_acknowledgement(asked["after"], asked["limit"])
                case "stop":
                    answer = writer.stop()
                case "get":
                    answer = get(asked["url"])
                case other:
                    raise ValueError(f"unknown request {other}")
            reply = {"answer": answer}
        except Exception as error:  # Whatever it is, the bench decides.
            reply = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    main()
