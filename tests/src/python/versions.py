"""Changes a few records over and over until told to stop, and writes down in the same transaction
which version replaced which.

Arguments: database, prefix of the versions, file for the acknowledged versions, file that ends it.
"""
import os, random, sqlite3, sys, time
path, prefix, acked_path, stop_path = sys.argv[1:]
acked = open(acked_path, 'a', buffering=1)
db = sqlite3.connect(path, timeout=5, isolation_level=None)
keys = [key for key, in db.execute('SELECT id FROM hot')]
number = fenced = 0
while not os.path.exists(stop_path):
    version = f'{prefix}-{number + 1}'
    key = random.choice(keys)
    try:
        db.execute('BEGIN IMMEDIATE')
        parent, = db.execute('SELECT version FROM hot WHERE id = ?', (key,)).fetchone()
        db.execute('UPDATE hot SET version = ? WHERE id = ?', (version, key))
        db.execute('INSERT INTO versions VALUES(?, ?, ?)', (version, key, parent))
        db.execute('INSERT INTO passing VALUES(?)', (version,))
        db.execute('DELETE FROM passing WHERE version = ?', (f'{prefix}-{number - 4}',))
        db.execute('COMMIT')
    except sqlite3.Error as error:
        if db.in_transaction:
            db.execute('ROLLBACK')
        if 'IPICSHA: this server is standby' not in str(error):
            raise
        fenced += 1
        time.sleep(0.01)
        continue
    number += 1
    acked.write(version + '\n')
    time.sleep(0.002)
print(fenced)
