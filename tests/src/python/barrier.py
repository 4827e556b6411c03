"""Writes calls in large transactions and asks after each whether the partner has it. At the answer to
the last one it kills the daemon, writes down what was confirmed, and kills itself.

Arguments: database, its common name, the daemon's socket and process id, prefix of the ids, file for
the ids that were confirmed.
"""
import json, os, signal, socket, sqlite3, sys
TRANSACTIONS, CALLS = 3, 3000
path, database, server, daemon, prefix, confirmed_path = sys.argv[1:]
db = sqlite3.connect(path, timeout=5, isolation_level=None)
# As many applications do; a commit alone would not even survive a power cut of this server.
db.execute('PRAGMA synchronous=NORMAL')


def barrier():
    line = json.dumps({'barrier': {'database': database, 'timeout_seconds': 30}})
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(server)
        connection.sendall(line.encode() + b'\n')
        answer = json.loads(connection.makefile().readline())
    if 'Ok' not in answer:
        raise SystemExit(f'not confirmed: {answer}')


confirmed = []
for transaction in range(TRANSACTIONS):
    names = [f'{prefix}-{transaction}-{n}' for n in range(CALLS)]
    db.execute('BEGIN IMMEDIATE')
    db.executemany('INSERT INTO calls(id, what) VALUES(?, ?)', [(name, 'call') for name in names])
    db.execute('COMMIT')
    barrier()
    if transaction == TRANSACTIONS - 1:
        os.kill(int(daemon), signal.SIGKILL)
    confirmed += names
with open(confirmed_path, 'w') as file:
    file.write(''.join(name + '\n' for name in confirmed))
os.kill(os.getpid(), signal.SIGKILL)
