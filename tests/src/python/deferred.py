"""Writes without any patience: no busy timeout, and transactions that read first and then write, so
that any other writer in between makes them fail. Every 500th writes many records.

Arguments: database, prefix of the ids, file for the acknowledged ids, file that ends it.
Prints how often SQLite said BUSY.
"""
import os, sqlite3, sys
path, prefix, acked_path, stop_path = sys.argv[1:]
BULK = '''INSERT INTO duty WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i + 1 FROM n WHERE i < 2000)
          SELECT i, ?, 0 FROM n'''
acked = open(acked_path, 'a', buffering=1)
db = sqlite3.connect(path, timeout=0, isolation_level=None)
db.execute('PRAGMA synchronous=NORMAL')
number = busy = 0
while not os.path.exists(stop_path):
    name = f'{prefix}-{number + 1}'
    try:
        db.execute('BEGIN DEFERRED')
        weight, = db.execute("SELECT weight FROM calls WHERE id = 'first'").fetchone()
        db.execute('SELECT count(*) FROM units').fetchone()
        db.execute("UPDATE calls SET weight = ? WHERE id = 'first'", ((weight or 0) + 1,))
        db.execute('INSERT INTO calls(id, what) VALUES(?, ?)', (name, 'call ' + name))
        if number % 500 == 499:
            db.execute(BULK, (name,))
        db.execute('COMMIT')
    except sqlite3.OperationalError as error:
        if db.in_transaction:
            db.execute('ROLLBACK')
        if error.sqlite_errorcode & 0xff != sqlite3.SQLITE_BUSY:
            raise
        busy += 1
        continue
    number += 1
    acked.write(name + '\n')
print(busy)
