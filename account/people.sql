-- Version 2 of the tables of accounts adds organisations, users and who is whose
-- member. What is deleted stays, without its names: its id is in the ledger.

CREATE TABLE account_organisations (
  id         TEXT   PRIMARY KEY,
  name       TEXT   NOT NULL, -- '' once it is deleted
  version    BIGINT NOT NULL, -- from 1, another one with each change
  created_us BIGINT NOT NULL,
  updated_us BIGINT NOT NULL,
  deleted_us BIGINT NOT NULL
);

CREATE TABLE account_users (
  id         TEXT   PRIMARY KEY,
  name       TEXT   NOT NULL, -- '' once it is deleted
  email      TEXT   NOT NULL, -- '' for none
  version    BIGINT NOT NULL, -- from 1, another one with each change
  created_us BIGINT NOT NULL,
  updated_us BIGINT NOT NULL,
  deleted_us BIGINT NOT NULL
);

-- Of users and organisations that are not deleted.
CREATE TABLE account_memberships (
  org        TEXT   NOT NULL,
  usr        TEXT   NOT NULL,
  role       TEXT   NOT NULL,
  version    BIGINT NOT NULL, -- from 1, another one with each change
  created_us BIGINT NOT NULL,
  updated_us BIGINT NOT NULL,
  PRIMARY KEY (org, usr)
);
CREATE INDEX account_memberships_usr ON account_memberships (usr, org);

-- What was answered to a change that had a key, for a day.
CREATE TABLE account_repeats (
  holder  TEXT   NOT NULL, -- who asked: token:ID or user:ID
  key     TEXT   NOT NULL,
  request TEXT   NOT NULL, -- SHA-256 of it, hexadecimal
  object  TEXT   NOT NULL, -- what was made: user:ID or organization:ID; goes with it
  answer  TEXT   NOT NULL, -- JSON
  at_us   BIGINT NOT NULL,
  PRIMARY KEY (holder, key)
);
CREATE INDEX account_repeats_at ON account_repeats (at_us);

-- Whose a token is: '' and '' for a service of the operator's.
ALTER TABLE account_tokens ADD COLUMN usr TEXT NOT NULL DEFAULT '';
ALTER TABLE account_tokens ADD COLUMN org TEXT NOT NULL DEFAULT '';
CREATE INDEX account_tokens_usr ON account_tokens (usr, number);
CREATE INDEX account_tokens_org ON account_tokens (org, number);
ALTER TABLE account_audit_log ADD COLUMN usr TEXT NOT NULL DEFAULT ''; -- whose token it is
