-- Who was given sight of instances, since version 3 of the tables of accounts. Times
-- as in accounts.sql. A grant that is changed is ended, and another one stands in its
-- place: rows are never taken out, and tell who saw what when.

CREATE TABLE account_grants (
  number     BIGINT PRIMARY KEY, -- dense from 1
  instance   TEXT   NOT NULL,
  usr        TEXT   NOT NULL, -- who holds it
  level      TEXT   NOT NULL,
  of_usr     TEXT   NOT NULL, -- in whose name: it shows what is charged to that owner,
  of_org     TEXT   NOT NULL, -- '' and '' for whatever the instance uses
  since_us   BIGINT NOT NULL, -- from when on it shows that; the beginning of an hour
  expires_us BIGINT NOT NULL,
  given_by   TEXT   NOT NULL, -- user, '' for the operator
  version    BIGINT NOT NULL, -- another one with each change
  created_us BIGINT NOT NULL,
  updated_us BIGINT NOT NULL,
  ended_us   BIGINT NOT NULL -- 0 while it stands, or expires by itself
);

-- A user holds one grant on an instance at a time.
CREATE UNIQUE INDEX account_grants_standing ON account_grants (instance, usr) WHERE ended_us = 0;
CREATE INDEX account_grants_usr ON account_grants (usr, instance);
CREATE INDEX account_grants_of_usr ON account_grants (of_usr);
CREATE INDEX account_grants_of_org ON account_grants (of_org);
