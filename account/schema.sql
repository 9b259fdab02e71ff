-- The directory's tables, version 3. Times ending in _us are microseconds since
-- the Unix epoch. Kept to the SQL that SQLite and PostgreSQL share.

CREATE TABLE meta (
  key   TEXT PRIMARY KEY,
  value TEXT NOT NULL
);

-- What one agent says of one instance.
CREATE TABLE claims (
  instance     TEXT   NOT NULL,
  agent        TEXT   NOT NULL,
  name         TEXT   NOT NULL,
  state        TEXT   NOT NULL,
  body         TEXT   NOT NULL, -- JSON, see odometer.Description
  first_us     BIGINT NOT NULL,
  described_us BIGINT NOT NULL, -- when it was last described otherwise than before
  gone_us      BIGINT NOT NULL, -- 0 while it is there
  PRIMARY KEY (instance, agent)
);
CREATE INDEX claims_agent ON claims (agent, instance);
CREATE INDEX claims_state ON claims (state, instance);
CREATE INDEX claims_name ON claims (name, instance);

-- The attributes of each, to be found by.
CREATE TABLE attributes (
  instance TEXT NOT NULL,
  agent    TEXT NOT NULL,
  name     TEXT NOT NULL,
  value    TEXT NOT NULL,
  since_us BIGINT NOT NULL, -- that it has this value
  PRIMARY KEY (instance, agent, name)
);
CREATE INDEX attributes_value ON attributes (name, value, instance);

-- When each agent was last heard, to the minute: what it has was described then.
CREATE TABLE agents (
  agent       TEXT   PRIMARY KEY,
  heard_us    BIGINT NOT NULL,
  interval_us BIGINT NOT NULL DEFAULT 0 -- length of its periods, 0 where it did not say
);
