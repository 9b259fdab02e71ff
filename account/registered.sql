-- What people keep of instances, since version 4 of the tables of accounts. Times as in
-- accounts.sql.

CREATE TABLE account_instances (
  instance   TEXT   PRIMARY KEY,
  name       TEXT   NOT NULL, -- '' for none, and once it is deleted
  labels     TEXT   NOT NULL, -- a JSON object
  of_usr     TEXT   NOT NULL, -- in whose name: it is shown to that owner, and to whom he
  of_org     TEXT   NOT NULL, -- shows the instance; '' and '' for the operator's, to all
  version    BIGINT NOT NULL, -- from 1, another one with each change
  created_us BIGINT NOT NULL,
  updated_us BIGINT NOT NULL,
  deleted_us BIGINT NOT NULL
);

-- The same labels, to be found by.
CREATE TABLE account_instance_labels (
  label    TEXT NOT NULL, -- key:value
  instance TEXT NOT NULL,
  PRIMARY KEY (label, instance)
);
CREATE INDEX account_instance_labels_instance ON account_instance_labels (instance);
