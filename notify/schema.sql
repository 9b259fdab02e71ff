-- The tables of notifications, version 1, in the ledger's file and not the ledger's.
-- Times ending in _us are microseconds since the Unix epoch, 0 for none. Kept to the
-- SQL that SQLite and PostgreSQL share.

CREATE TABLE notify_meta (
  key   TEXT PRIMARY KEY, -- schema_version, and changes: up to which number they were read
  value TEXT NOT NULL
);

CREATE TABLE notify_channels (
  id         TEXT   PRIMARY KEY,
  version    BIGINT NOT NULL,
  name       TEXT   NOT NULL,
  kind       TEXT   NOT NULL,
  usr        TEXT   NOT NULL, -- whose it is; '' and '' for the operator's
  org        TEXT   NOT NULL,
  enabled    BIGINT NOT NULL, -- 1 or 0
  problem    TEXT   NOT NULL, -- why the server disabled it, or what it was not told
  url        TEXT   NOT NULL, -- of Slack's only what may be shown; the whole is a secret
  recipients TEXT   NOT NULL, -- with spaces between them
  events     TEXT   NOT NULL, -- with spaces between them
  after      TEXT   NOT NULL, -- cursor in the ledger, of a webhook that is told usage
  created_us BIGINT NOT NULL,
  changed_us BIGINT NOT NULL,
  created_by TEXT   NOT NULL
);

CREATE UNIQUE INDEX notify_channels_name ON notify_channels (usr, org, name);

-- What a channel keeps secret, sealed with a key that does not lie in this file.
CREATE TABLE notify_secrets (
  channel    TEXT   NOT NULL,
  number     BIGINT NOT NULL, -- the newest has the highest
  purpose    TEXT   NOT NULL, -- sign, url or bearer
  sealed     BYTEA  NOT NULL,
  until_us   BIGINT NOT NULL, -- 0 for the newest
  PRIMARY KEY (channel, number)
);

-- One message to one channel. Of the messages of a lane that wait, the first is its
-- head, and nothing but heads is sent: that is their order.
CREATE TABLE notify_deliveries (
  number     BIGINT PRIMARY KEY, -- the order in which they are sent
  id         TEXT   NOT NULL UNIQUE,
  channel    TEXT   NOT NULL,
  kind       TEXT   NOT NULL, -- of the event, '' for a test
  lane       TEXT   NOT NULL,
  subject    TEXT   NOT NULL,
  event      TEXT   NOT NULL,
  events     BIGINT NOT NULL,
  urgent     BIGINT NOT NULL, -- 1: is in no digest
  state      TEXT   NOT NULL,
  head       BIGINT NOT NULL, -- 1: the first of its lane that waits
  attempts   BIGINT NOT NULL, -- that were begun: an attempt's number is its claim
  next_us    BIGINT NOT NULL, -- the next attempt; while one goes on, when its claim ends
  since_us   BIGINT NOT NULL, -- from when on the time counts after which it is given up
  created_us BIGINT NOT NULL,
  done_us    BIGINT NOT NULL,
  reason     TEXT   NOT NULL, -- why it was given up
  body       TEXT   NOT NULL  -- what is told, one JSON value a line
);

CREATE INDEX notify_deliveries_due ON notify_deliveries (channel, next_us) WHERE state = 'waiting' AND head = 1;
CREATE INDEX notify_deliveries_lane ON notify_deliveries (channel, lane, number) WHERE state = 'waiting';
CREATE INDEX notify_deliveries_state ON notify_deliveries (channel, state, number);
CREATE INDEX notify_deliveries_dead ON notify_deliveries (channel) WHERE state = 'dead';
CREATE INDEX notify_deliveries_recent ON notify_deliveries (channel, created_us);

CREATE TABLE notify_attempts (
  delivery   TEXT   NOT NULL,
  number     BIGINT NOT NULL, -- from 1 on
  at_us      BIGINT NOT NULL,
  latency_us BIGINT NOT NULL,
  status     BIGINT NOT NULL,
  answer     TEXT   NOT NULL,
  err        TEXT   NOT NULL,
  PRIMARY KEY (delivery, number)
);

-- Violations that are open and of which an Alertmanager is told until they are not.
CREATE TABLE notify_open (
  channel   TEXT NOT NULL,
  violation TEXT NOT NULL,
  body      TEXT NOT NULL,
  PRIMARY KEY (channel, violation)
);

-- What was answered to keys of repeated requests, for a day.
CREATE TABLE notify_repeats (
  holder  TEXT   NOT NULL,
  key     TEXT   NOT NULL,
  request TEXT   NOT NULL, -- SHA-256, hexadecimal
  channel TEXT   NOT NULL,
  at_us   BIGINT NOT NULL,
  PRIMARY KEY (holder, key)
);
