"""The programs that write to what is measured, or ask it: each is a process of its own in a namespace.

`clients.py WHAT ARGUMENTS`. Writers print the number of every row after its commit; probers print one line,
the time (CLOCK_MONOTONIC, the same in all processes of a machine) of their first success, and end.
"""

import socket
import socketserver
import sqlite3
import sys
import time

# Pauses between two tries, in seconds. A try on PostgreSQL that is refused is a round trip, so it comes less often.
WRITE_PAUSE = 0.005
PROBE_PAUSE = 0.005
POSTGRES_PROBE_PAUSE = 0.02
TCP_TIMEOUT = 0.05
SQLITE_TIMEOUT = 0.05
TCP_PORT = 7000
POSTGRES_PORT = 5432
INSERT_SQLITE = "INSERT INTO note (id, body) VALUES (?, 'written by the benchmark')"
INSERT_POSTGRES = "INSERT INTO note (id, body) VALUES (%s, 'written by the benchmark')"


def say(text):
    """One line, at once: what is still in a buffer at a `kill -9` would not be acknowledged."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def sqlite_connection(path):
    """As an application opens it: autocommit, and a short patience for locks."""
    return sqlite3.connect(path, timeout=SQLITE_TIMEOUT, isolation_level=None)


def postgres_connection(host):
    """Autocommit; the driver comes from the environment of the benchmark."""
    import psycopg2

    connection = psycopg2.connect(
        host=host, port=POSTGRES_PORT, user="postgres", dbname="postgres", connect_timeout=2
    )
    connection.autocommit = True
    return connection


def sqlite_writer(path, stem):
    """Writes until it is killed; what was not committed is not told."""
    connection = sqlite_connection(path)
    number = 0
    while True:
        number += 1
        row = f"{stem}-{number}"
        try:
            connection.execute(INSERT_SQLITE, (row,))
            say(row)
        except sqlite3.Error as error:
            print(f"{row}: {error}", file=sys.stderr, flush=True)
        time.sleep(WRITE_PAUSE)


def sqlite_prober(path, row):
    """Tries one row until the database takes it."""
    connection = sqlite_connection(path)
    last = ""
    while True:
        try:
            connection.execute(INSERT_SQLITE, (row,))
            break
        except sqlite3.Error as error:
            if str(error) != last:
                last = str(error)
                print(last, file=sys.stderr, flush=True)
        time.sleep(PROBE_PAUSE)
    say(time.monotonic())


def postgres_writer(host, stem):
    """Writes until it is killed or the server is gone."""
    cursor = postgres_connection(host).cursor()
    number = 0
    while True:
        number += 1
        cursor.execute(INSERT_POSTGRES, (f"{stem}-{number}",))
        say(f"{stem}-{number}")
        time.sleep(WRITE_PAUSE)


def postgres_prober(host, row):
    """Tries one row until the server takes it, over one connection for as long as that lives."""
    import psycopg2

    cursor, last = None, ""
    while True:
        try:
            cursor = cursor or postgres_connection(host).cursor()
            cursor.execute(INSERT_POSTGRES, (row,))
            break
        except psycopg2.Error as error:
            if not isinstance(error, psycopg2.errors.ReadOnlySqlTransaction):
                cursor = None
            if str(error) != last:
                last = str(error)
                print(last, file=sys.stderr, flush=True)
        time.sleep(POSTGRES_PROBE_PAUSE)
    say(time.monotonic())


class Answer(socketserver.StreamRequestHandler):
    """A service without data: every line is answered with `ok`."""

    def handle(self):
        if self.rfile.readline():
            self.wfile.write(b"ok\n")


class Server(socketserver.ThreadingTCPServer):
    """Serves on every address, so that an address that arrives later is served at once."""

    allow_reuse_address = True
    daemon_threads = True


def tcp_server():
    """Serves until it is killed."""
    Server(("0.0.0.0", TCP_PORT), Answer).serve_forever()


def is_answered(host):
    """One connection, one line, one answer."""
    try:
        with socket.create_connection((host, TCP_PORT), timeout=TCP_TIMEOUT) as connection:
            connection.sendall(b"hello\n")
            return connection.recv(16) == b"ok\n"
    except OSError:
        return False


def tcp_prober(host):
    """Asks until it is answered. It waits for its go, as the active answers until it is dead."""
    sys.stdin.readline()
    while not is_answered(host):
        time.sleep(PROBE_PAUSE)
    say(time.monotonic())


PROGRAMS = {
    "sqlite-writer": sqlite_writer,
    "sqlite-prober": sqlite_prober,
    "postgres-writer": postgres_writer,
    "postgres-prober": postgres_prober,
    "tcp-server": tcp_server,
    "tcp-prober": tcp_prober,
}

if __name__ == "__main__":
    PROGRAMS[sys.argv[1]](*sys.argv[2:])
