-- The ledger's tables, version 2; migrate.go leads there from older ones.
-- Times ending in _us are microseconds since the Unix epoch; sums and vectors
-- are odometer.Usage in its binary form. Everything but meta, journal, heads,
-- feed and feed_stream is a fold of the journal: package ledger's Rebuild
-- proves it. Kept to the SQL that SQLite and the PostgreSQL protocol's common
-- subset share.

CREATE TABLE meta (
  key   TEXT PRIMARY KEY,
  value TEXT NOT NULL
);

-- The evidence: what was received and decided, in the order of commit. Each
-- partition is one chain: hash covers the previous hash and every column that
-- was decided at commit.
CREATE TABLE journal (
  id          INTEGER PRIMARY KEY, -- order of commit over all partitions
  partition   INTEGER NOT NULL,
  position    INTEGER NOT NULL,    -- dense from 1 within the partition
  kind        TEXT    NOT NULL,    -- frame, broken (a frame that could not be opened), decision
  at_us       INTEGER NOT NULL,
  sender      TEXT    NOT NULL,    -- agent, or "http:…" with an empty spool
  spool       TEXT    NOT NULL,
  first       INTEGER NOT NULL,    -- spool positions the record covers
  last        INTEGER NOT NULL,
  min_us      INTEGER NOT NULL,    -- span of the entries it booked; 0, 0 for none
  max_us      INTEGER NOT NULL,
  first_entry INTEGER NOT NULL,    -- entries booked: first_entry … first_entry+entries-1
  entries     INTEGER NOT NULL,
  body        BLOB    NOT NULL,
  result      BLOB    NOT NULL,    -- JSON, see result in journal.go
  hash        BLOB    NOT NULL,
  checksum    INTEGER NOT NULL DEFAULT -1, -- CRC-32C over every column before it but id, compared whenever the row is read
  UNIQUE (partition, position)
);
-- What was used in an hour is found among the records that end soon after it
-- and the few that cover more than two hours.
CREATE INDEX journal_short ON journal (partition, max_us, min_us) WHERE max_us - min_us <= 7200000000;
CREATE INDEX journal_long ON journal (partition, max_us, min_us) WHERE max_us - min_us > 7200000000;

-- Where the journal of a partition begins after it was pruned: see head.go.
CREATE TABLE heads (
  partition INTEGER PRIMARY KEY,
  position  INTEGER NOT NULL, -- of the last record that is gone
  body      BLOB    NOT NULL, -- JSON: what follows from the records that are gone
  key       BLOB    NOT NULL, -- Ed25519 public key
  signature BLOB    NOT NULL  -- of body
);

-- Where each generation after the first begins, see generation.go: position of
-- the record that says so, and the last entry before it.
CREATE TABLE generations (
  partition  INTEGER NOT NULL,
  generation INTEGER NOT NULL,
  position   INTEGER NOT NULL,
  entry      INTEGER NOT NULL,
  PRIMARY KEY (partition, generation)
);

-- Entries that were reversed, each once and by which entry: see reverse.go.
CREATE TABLE reversals (
  partition INTEGER NOT NULL,
  entry     INTEGER NOT NULL,
  by_entry  INTEGER NOT NULL,
  recovered INTEGER NOT NULL,      -- 1 where their time counts as recovered
  PRIMARY KEY (partition, entry),
  UNIQUE (partition, by_entry)
);

-- Who owned an instance when, as it was decided; times of an instance do not
-- overlap: see ownership.go.
CREATE TABLE ownership (
  partition INTEGER NOT NULL,      -- of the instance's name
  instance  TEXT    NOT NULL,
  from_us   INTEGER NOT NULL,
  until_us  INTEGER NOT NULL,      -- 2^63-1 for no end
  usr       TEXT    NOT NULL,
  org       TEXT    NOT NULL,
  PRIMARY KEY (instance, from_us)
);
CREATE INDEX ownership_partition ON ownership (partition);

-- Months that were closed: what is booked after entry is no more of the month, of an
-- organisation or, with everybody 1, of all for whom it was open. See month.go.
CREATE TABLE closes (
  partition INTEGER NOT NULL,
  month     INTEGER NOT NULL,      -- its first moment
  everybody INTEGER NOT NULL,
  org       TEXT    NOT NULL,      -- '' for everybody
  position  INTEGER NOT NULL,      -- of the decision
  entry     INTEGER NOT NULL,      -- the last one before it
  at_us     INTEGER NOT NULL,
  PRIMARY KEY (partition, month, everybody, org)
);

-- What an organisation used in a month that was closed: see Statement.AppendText.
CREATE TABLE statements (
  partition INTEGER NOT NULL,      -- of the organisation's name
  month     INTEGER NOT NULL,
  org       TEXT    NOT NULL,      -- '' for users without one
  id        TEXT    NOT NULL,
  at_us     INTEGER NOT NULL,
  actor     TEXT    NOT NULL,
  cause     TEXT    NOT NULL,
  hash      TEXT    NOT NULL,      -- SHA-256 of the text, hexadecimal
  lines     INTEGER NOT NULL,
  missing   INTEGER NOT NULL,
  body      BLOB    NOT NULL,      -- the text
  PRIMARY KEY (month, org)
);
CREATE UNIQUE INDEX statements_id ON statements (id);

-- What entries have of months that were closed before they were booked.
CREATE TABLE adjustments (
  partition    INTEGER NOT NULL,
  entry        INTEGER NOT NULL,
  month        INTEGER NOT NULL,   -- of use
  booked       INTEGER NOT NULL,   -- the month that has it instead
  instance     TEXT    NOT NULL,
  usr          TEXT    NOT NULL,
  org          TEXT    NOT NULL,
  sums         BLOB    NOT NULL,
  recovered_us INTEGER NOT NULL,
  PRIMARY KEY (partition, entry, month)
);
CREATE INDEX adjustments_month ON adjustments (month);
CREATE INDEX adjustments_booked ON adjustments (booked);

-- Corrections that move usage to its owner and whose time counts as recovered.
CREATE TABLE moved (
  partition INTEGER NOT NULL,
  entry     INTEGER NOT NULL,
  PRIMARY KEY (partition, entry)
);

-- Epochs that were offered to an agent which had lost its state, up to which
-- event and time, and the epoch that goes on from there: see handover.go.
CREATE TABLE handovers (
  partition INTEGER NOT NULL,
  epoch     TEXT    NOT NULL,
  instance  TEXT    NOT NULL,
  agent     TEXT    NOT NULL,
  until_us  INTEGER NOT NULL,
  sequence  INTEGER NOT NULL,      -- of that event; 0 where another epoch tells all of this one
  successor TEXT    NOT NULL,      -- '' for none yet
  PRIMARY KEY (partition, epoch, until_us)
);

-- What happened to instances, as events told it, each once: see lifecycle.go.
CREATE TABLE lifecycle (
  partition INTEGER NOT NULL,
  instance  TEXT    NOT NULL,
  at_us     INTEGER NOT NULL,
  what      TEXT    NOT NULL,
  device    TEXT    NOT NULL,
  agent     TEXT    NOT NULL,
  boot_us   INTEGER NOT NULL,
  detail    TEXT    NOT NULL,
  PRIMARY KEY (partition, instance, at_us, what, device, agent)
);
CREATE INDEX lifecycle_instance ON lifecycle (instance, at_us);

-- Who an epoch is of: written once.
CREATE TABLE epochs (
  partition  INTEGER NOT NULL,
  epoch_no   INTEGER NOT NULL, -- dense from 1 within the partition
  epoch      TEXT    NOT NULL,
  instance   TEXT    NOT NULL,
  agent      TEXT    NOT NULL,
  counted_by TEXT    NOT NULL, -- vector, or time for version 1.0
  started_us INTEGER NOT NULL,
  PRIMARY KEY (partition, epoch_no),
  UNIQUE (partition, epoch)
);
CREATE INDEX epochs_instance ON epochs (instance);

-- Open state: the watermark of each epoch and the hour it is in. It is what
-- every commit writes, and therefore as small as it can be; eight epochs of
-- consecutive numbers share a row.
CREATE TABLE state (
  id        INTEGER PRIMARY KEY, -- partition × 2^37 + epoch_no / 8
  open_hour INTEGER NOT NULL,    -- the earliest of them, -1 for one up to 1970; 0 for none
  body      BLOB    NOT NULL     -- see siblings in state.go
);

-- Finished chunks of content digests, so that an old event that comes again is
-- told from one that changed: 32 sequence numbers a row.
CREATE TABLE digests (
  partition INTEGER NOT NULL,
  epoch_no  INTEGER NOT NULL,
  chunk     INTEGER NOT NULL,
  data      BLOB    NOT NULL,
  PRIMARY KEY (partition, epoch_no, chunk)
);

-- Sealed hours, append-only: the usage of an hour is the sum of its pieces and
-- of the open part in epochs.
CREATE TABLE hours (
  hour         INTEGER NOT NULL,
  partition    INTEGER NOT NULL,
  epoch_no     INTEGER NOT NULL,
  usr          TEXT    NOT NULL,
  org          TEXT    NOT NULL,
  sums         BLOB    NOT NULL,
  recovered_us INTEGER NOT NULL,
  cause        TEXT    NOT NULL  -- sealed, owner, late, correction, moved
);
CREATE INDEX hours_hour ON hours (hour, partition, epoch_no);

-- Past hours, compacted: the hours of a day and the days of a month, of each
-- epoch and owner, and of everything an owner used; see days.go.
CREATE TABLE days (
  day       INTEGER NOT NULL,
  partition INTEGER NOT NULL,
  epoch_no  INTEGER NOT NULL,
  usr       TEXT    NOT NULL,
  org       TEXT    NOT NULL,
  hours     BLOB    NOT NULL,   -- see appendParts
  PRIMARY KEY (day, partition, epoch_no, usr, org)
);
CREATE TABLE months (
  month     INTEGER NOT NULL,
  partition INTEGER NOT NULL,
  epoch_no  INTEGER NOT NULL,
  usr       TEXT    NOT NULL,
  org       TEXT    NOT NULL,
  days      BLOB    NOT NULL,   -- see appendParts
  PRIMARY KEY (month, partition, epoch_no, usr, org)
);
CREATE TABLE owner_days (
  day   INTEGER NOT NULL,
  usr   TEXT    NOT NULL,
  org   TEXT    NOT NULL,
  hours BLOB    NOT NULL,       -- see appendAmounts
  PRIMARY KEY (day, usr, org)
);
CREATE INDEX owner_days_org ON owner_days (day, org);
CREATE TABLE owner_months (
  month INTEGER NOT NULL,
  usr   TEXT    NOT NULL,
  org   TEXT    NOT NULL,
  days  BLOB    NOT NULL,       -- see appendAmounts
  PRIMARY KEY (month, usr, org)
);
CREATE INDEX owner_months_org ON owner_months (month, org);

-- Which epochs an owner has usage of. Of each partition, epochs up to epoch_no
-- are in owner_epochs; what is newer may be anybody's, see owners.go.
CREATE TABLE owner_epochs (
  usr       TEXT    NOT NULL,
  org       TEXT    NOT NULL,
  partition INTEGER NOT NULL,
  epoch_no  INTEGER NOT NULL,
  PRIMARY KEY (usr, org, partition, epoch_no)
);
CREATE INDEX owner_epochs_org ON owner_epochs (org, partition, epoch_no);
CREATE TABLE owners_known (
  partition INTEGER PRIMARY KEY,
  epoch_no  INTEGER NOT NULL
);
INSERT INTO owners_known (partition, epoch_no)
  WITH RECURSIVE p (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM p WHERE n < 63) SELECT n, 0 FROM p;

-- Receipts: how far each spool is committed. Its frames may lie in the
-- partitions of other agents, too; home is how far those have come that lie in
-- this partition, the agent's own, whatever became of the others.
CREATE TABLE spools (
  partition  INTEGER NOT NULL,
  agent      TEXT    NOT NULL,
  spool      TEXT    NOT NULL,
  position   INTEGER NOT NULL,
  updated_us INTEGER NOT NULL,
  home       INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY (partition, agent, spool)
);

-- Where the newest checkpoint of an instance lies that came without an event.
CREATE TABLE checkpoints (
  partition INTEGER NOT NULL,
  agent     TEXT    NOT NULL,
  instance  TEXT    NOT NULL,
  position  INTEGER NOT NULL,
  idx       INTEGER NOT NULL,
  PRIMARY KEY (partition, agent, instance)
);

CREATE TABLE held (
  partition INTEGER NOT NULL,
  epoch     TEXT    NOT NULL,
  first     INTEGER NOT NULL,
  sequence  INTEGER NOT NULL,
  position  INTEGER NOT NULL,
  idx       INTEGER NOT NULL,
  since_us  INTEGER NOT NULL,
  reason    TEXT    NOT NULL, -- hole, clock_ahead, clock_unset
  end_us    INTEGER NOT NULL,
  digest    BLOB    NOT NULL,
  PRIMARY KEY (partition, epoch, first, sequence)
);

CREATE TABLE quarantine (
  partition   INTEGER NOT NULL,
  no          INTEGER NOT NULL, -- dense from 1 within the partition
  position    INTEGER NOT NULL,
  idx         INTEGER NOT NULL,
  reason      TEXT    NOT NULL,
  detail      TEXT    NOT NULL,
  event_id    TEXT    NOT NULL,
  instance    TEXT    NOT NULL,
  epoch       TEXT    NOT NULL,
  first       INTEGER NOT NULL,
  sequence    INTEGER NOT NULL,
  digest      BLOB    NOT NULL,
  at_us       INTEGER NOT NULL,
  released_us INTEGER NOT NULL, -- 0 while it is in quarantine
  PRIMARY KEY (partition, no)
);
CREATE INDEX quarantine_digest ON quarantine (partition, digest);
CREATE INDEX quarantine_epoch ON quarantine (partition, epoch);

-- The periods that events of version 1.0 cover.
CREATE TABLE coverage (
  partition INTEGER NOT NULL,
  instance  TEXT    NOT NULL,
  source    TEXT    NOT NULL,
  start_us  INTEGER NOT NULL,
  end_us    INTEGER NOT NULL,
  digest    BLOB    NOT NULL,
  PRIMARY KEY (partition, instance, source, start_us)
);

CREATE TABLE counts (
  partition INTEGER NOT NULL,
  outcome   TEXT    NOT NULL, -- received, recorded, covered, duplicate, quarantined, held, checkpoint
  n         INTEGER NOT NULL,
  PRIMARY KEY (partition, outcome)
);

-- Cursor of a feed: journal records up to position, entries up to entry, are
-- published.
CREATE TABLE feed (
  name      TEXT    NOT NULL,
  partition INTEGER NOT NULL,
  position  INTEGER NOT NULL,
  entry     INTEGER NOT NULL,
  PRIMARY KEY (name, partition)
);
CREATE TABLE feed_stream (
  name   TEXT    PRIMARY KEY,
  stream TEXT    NOT NULL,
  seq    INTEGER NOT NULL, -- the last message of it that the cursor is beyond
  back   INTEGER NOT NULL DEFAULT 0 -- messages after this one may hold entries after the cursor
);
