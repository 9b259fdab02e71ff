-- Hosts and what lets them in, since version 3 of the tables of accounts. Times as
-- in accounts.sql.

CREATE TABLE account_hosts (
  number      BIGINT PRIMARY KEY, -- dense from 1, in the order in which they were enrolled
  agent       TEXT   NOT NULL,
  public_key  TEXT   NOT NULL UNIQUE, -- one that was revoked is never accepted again
  enrolment   TEXT   NOT NULL, -- id
  remote      TEXT   NOT NULL, -- address that it was enrolled from
  enrolled_us BIGINT NOT NULL,
  revoked_us  BIGINT NOT NULL
);

CREATE INDEX account_hosts_agent ON account_hosts (agent);

-- An agent has one key at a time.
CREATE UNIQUE INDEX account_hosts_live ON account_hosts (agent) WHERE revoked_us = 0;

CREATE TABLE account_enrolments (
  number     BIGINT PRIMARY KEY, -- dense from 1, in the order in which they were created
  id         TEXT   NOT NULL UNIQUE,
  hash       TEXT   NOT NULL UNIQUE, -- SHA-256 of the secret, hexadecimal
  agent      TEXT   NOT NULL, -- that it is for, '' for any
  replaces   BIGINT NOT NULL, -- 1: the agent may be enrolled, and is then revoked
  created_us BIGINT NOT NULL,
  created_by TEXT   NOT NULL,
  expires_us BIGINT NOT NULL,
  used_us    BIGINT NOT NULL,
  used_by    TEXT   NOT NULL, -- agent, '' for none
  revoked_us BIGINT NOT NULL
);

-- Who may read the ledger's topic.
CREATE TABLE account_consumers (
  number     BIGINT PRIMARY KEY, -- dense from 1, in the order in which they were created
  id         TEXT   NOT NULL UNIQUE,
  name       TEXT   NOT NULL,
  org        TEXT   NOT NULL, -- '' for all
  public_key TEXT   NOT NULL UNIQUE,
  created_us BIGINT NOT NULL,
  created_by TEXT   NOT NULL,
  revoked_us BIGINT NOT NULL
);
