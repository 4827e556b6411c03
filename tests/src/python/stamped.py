"""Writes calls until told to stop, and notes when each was acknowledged.

Arguments: database, prefix of the ids, file for the acknowledged ids, file that ends it.
"""
import os, sqlite3, sys, time
path, prefix, acked_path, stop_path = sys.argv[1:]
acked = open(acked_path, 'a', buffering=1)
db = sqlite3.connect(path, timeout=0.05, isolation_level=None)
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
    acked.write(f'{name} {time.monotonic():.6f}\n')
    time.sleep(0.005)
print(fenced)
