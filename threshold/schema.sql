-- The tables of thresholds, version 1, in the ledger's file and not the ledger's. Times
-- ending in _us are microseconds since the Unix epoch. Kept to the SQL that SQLite and
-- PostgreSQL share.

CREATE TABLE threshold_meta (
  key   TEXT PRIMARY KEY, -- schema_version; cursor: the journal's last record that was taken in
  value TEXT NOT NULL
);

CREATE TABLE threshold_thresholds (
  id         TEXT   PRIMARY KEY,
  version    BIGINT NOT NULL, -- from 1, another one with each change
  holder_usr TEXT   NOT NULL, -- '' and '' for the operator's
  holder_org TEXT   NOT NULL,
  resource   TEXT   NOT NULL,
  enabled    BOOLEAN NOT NULL,
  managed    TEXT   NOT NULL, -- 'file', '' for what requests change
  body       TEXT   NOT NULL, -- JSON, see odometer.ParseThreshold; '' once it is deleted
  record     BIGINT NOT NULL, -- the journal's record after which entries count; -1 until it has begun
  created_us BIGINT NOT NULL,
  created_by TEXT   NOT NULL,
  changed_us BIGINT NOT NULL,
  deleted_us BIGINT NOT NULL
);
CREATE INDEX threshold_thresholds_holder ON threshold_thresholds (holder_usr, holder_org);

-- What is remembered of subjects, as of the cursor: see state.go.
CREATE TABLE threshold_states (
  threshold TEXT   NOT NULL,
  subject   TEXT   NOT NULL, -- an instance, '' for a sum
  period_us BIGINT NOT NULL, -- start of a budget's period, 0 for others
  end_us    BIGINT NOT NULL,
  body      TEXT   NOT NULL, -- JSON
  PRIMARY KEY (threshold, subject, period_us)
);
CREATE INDEX threshold_states_end ON threshold_states (end_us);

-- Each violation as it was told last, and all of its changes.
CREATE TABLE threshold_violations (
  id         TEXT   PRIMARY KEY,
  number     BIGINT NOT NULL UNIQUE, -- of its last change
  threshold  TEXT   NOT NULL,
  level      TEXT   NOT NULL,
  standing   TEXT   NOT NULL,
  resource   TEXT   NOT NULL,
  instance   TEXT   NOT NULL,
  usr        TEXT   NOT NULL,
  org        TEXT   NOT NULL,
  holder_usr TEXT   NOT NULL, -- whose threshold it is of
  holder_org TEXT   NOT NULL,
  shared     BOOLEAN NOT NULL,
  event      TEXT   NOT NULL,
  crossed_us BIGINT NOT NULL,
  body       TEXT   NOT NULL -- JSON
);
CREATE INDEX threshold_violations_threshold ON threshold_violations (threshold, event);
CREATE INDEX threshold_violations_standing ON threshold_violations (standing);
CREATE INDEX threshold_violations_usr ON threshold_violations (usr, number);
CREATE INDEX threshold_violations_org ON threshold_violations (org, number);
CREATE INDEX threshold_violations_holder ON threshold_violations (holder_usr, holder_org, number);

CREATE TABLE threshold_changes (
  number    BIGINT PRIMARY KEY, -- dense from 1
  violation TEXT   NOT NULL,
  change    BIGINT NOT NULL,
  body      TEXT   NOT NULL, -- JSON
  UNIQUE (violation, change)
);

-- What was answered to a change that had a key, for a day.
CREATE TABLE threshold_repeats (
  holder  TEXT   NOT NULL, -- who asked
  key     TEXT   NOT NULL,
  request TEXT   NOT NULL, -- SHA-256 of it, hexadecimal
  id      TEXT   NOT NULL, -- of the threshold that was made
  at_us   BIGINT NOT NULL,
  PRIMARY KEY (holder, key)
);
