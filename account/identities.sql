-- Who users are to an issuer of tokens, since version 3 of the tables of accounts.
-- Times as in accounts.sql.

CREATE TABLE account_identities (
  issuer     TEXT   NOT NULL,
  subject    TEXT   NOT NULL, -- what the issuer calls him
  usr        TEXT   NOT NULL,
  created_us BIGINT NOT NULL,
  created_by TEXT   NOT NULL,
  PRIMARY KEY (issuer, subject)
);
CREATE INDEX account_identities_usr ON account_identities (usr);
