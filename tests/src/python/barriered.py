"""Writes calls until told to stop, and notes those that the partner durably has, by the daemon's word.

Arguments: database, prefix of the ids, file for the confirmed ids, file that ends it. The daemon's socket
lies beside the latter.
"""
import json, os, socket, sqlite3, sys, time
path, prefix, acked_path, stop_path = sys.argv[1:]
acked = open(acked_path, 'a', buffering=1)
db = sqlite3.connect(path, timeout=0.05, isolation_level=None)


def is_confirmed():
    line = json.dumps({'barrier': {'database': 'board', 'timeout_seconds': 1}})
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(2)
            connection.connect(os.path.join(os.path.dirname(stop_path), 'ipicsha.sock'))
            connection.sendall(line.encode() + b'\n')
            return 'Ok' in json.loads(connection.makefile().readline() or '{}')
    except (OSError, ValueError):
        return False  # nobody is there, or it ended in the middle of its answer


number = fenced = 0
while not os.path.exists(stop_path):
    number += 1
    name = f'{prefix}-{number}'
    try:
        db.execute('INSERT INTO calls(id, what) VALUES(?, ?)', (name, 'call ' + name))
    except sqlite3.Error as error:
        if not any(word in str(error) for word in ('IPICSHA: ', 'locked', 'full')):
            raise
        fenced += 1
        time.sleep(0.005)
        continue
    if is_confirmed():
        acked.write(f'{name} {time.monotonic():.6f}\n')
    time.sleep(0.02)
print(fenced)
