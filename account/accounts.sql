-- The tables of accounts, version 1, in the ledger's file and not the ledger's;
-- people.sql leads to version 2, hosts.sql, grants.sql and identities.sql to
-- version 3, and registered.sql to version 4.
-- Times ending in _us are microseconds since the Unix epoch, 0 for never. Kept to
-- the SQL that SQLite and PostgreSQL share.

CREATE TABLE account_meta (
  key   TEXT PRIMARY KEY,
  value TEXT NOT NULL
);

CREATE TABLE account_tokens (
  number     BIGINT PRIMARY KEY, -- dense from 1, in the order in which they were created
  id         TEXT   NOT NULL UNIQUE,
  hash       TEXT   NOT NULL UNIQUE, -- SHA-256 of the secret, hexadecimal
  name       TEXT   NOT NULL,
  scopes     TEXT   NOT NULL, -- with spaces between them
  created_us BIGINT NOT NULL,
  created_by TEXT   NOT NULL,
  expires_us BIGINT NOT NULL,
  used_us    BIGINT NOT NULL, -- last, to the minute
  revoked_us BIGINT NOT NULL
);

-- Who did what. Rows are added and never changed or taken out.
CREATE TABLE account_audit_log (
  number BIGINT PRIMARY KEY, -- dense from 1
  at_us  BIGINT NOT NULL,
  token  TEXT   NOT NULL, -- id, '' for the administrator's
  actor  TEXT   NOT NULL, -- name
  remote TEXT   NOT NULL, -- address that the request came from
  action TEXT   NOT NULL,
  object TEXT   NOT NULL,
  detail TEXT   NOT NULL
);
