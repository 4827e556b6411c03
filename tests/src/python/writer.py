"""Writes calls until told to stop.

Arguments: database, prefix of the ids, file for the acknowledged ids, file that ends it.
"""
import os, sqlite3, sys, time
calls = 1
path, prefix, acked_path, stop_path = sys.argv[1:]
acked = open(acked_path, 'a', buffering=1)
db = sqlite3.connect(path, timeout=5, isolation_level=None)
number = fenced = 0
while not os.path.exists(stop_path):
    number += 1
    names = [f'{prefix}-{number}'] if calls == 1 else [f'{prefix}-{number}-{n}' for n in range(calls)]
    try:
        db.execute('BEGIN IMMEDIATE')
        rows = [(name, 'call ' + name) for name in names]
        db.executemany('INSERT INTO calls(id, what) VALUES(?, ?)', rows)
        db.execute('COMMIT')
    except sqlite3.Error as error:
        if db.in_transaction:
            db.execute('ROLLBACK')
        if 'IPICSHA: this server is standby' not in str(error):
            raise
        fenced += 1
        time.sleep(0.01)
        continue
    acked.write(''.join(name + '\n' for name in names))
    time.sleep(0.001)
print(fenced)
