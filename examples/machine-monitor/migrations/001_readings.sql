-- What came in, as a log: a repeated reading is another reading.
CREATE TABLE readings (
    id        INTEGER PRIMARY KEY,
    machine   TEXT NOT NULL,
    timestamp TEXT NOT NULL,
    value     REAL NOT NULL
);

CREATE INDEX readings_by_machine ON readings (machine, timestamp);

-- One row a machine: the summary, and the state of the detector. Whoever updates a row demands the
-- version that it has read, so that of two at the same time one reads again.
CREATE TABLE machines (
    machine   TEXT PRIMARY KEY,
    version   INTEGER NOT NULL,
    count     INTEGER NOT NULL,
    sum       REAL NOT NULL,
    min       REAL NOT NULL,
    max       REAL NOT NULL,
    anomalies INTEGER NOT NULL,
    mean      REAL NOT NULL,
    variance  REAL NOT NULL
);

-- Readings beyond the limit, in the order in which they were committed.
CREATE TABLE anomalies (
    id        INTEGER PRIMARY KEY,
    machine   TEXT NOT NULL,
    timestamp TEXT NOT NULL,
    value     REAL NOT NULL,
    mean      REAL NOT NULL,
    deviation REAL NOT NULL
);

CREATE INDEX anomalies_by_machine ON anomalies (machine, id);
