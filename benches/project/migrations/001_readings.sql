CREATE TABLE readings (id INTEGER PRIMARY KEY, machine TEXT NOT NULL, value REAL NOT NULL);
CREATE INDEX readings_by_machine ON readings (machine);
INSERT INTO readings (machine, value) VALUES ('m1', 73.97), ('m2', 74.94), ('m3', 76.12);
