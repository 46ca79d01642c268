-- Times are milliseconds since 1970-01-01T00:00:00Z. Ids are the 16 bytes of a UUIDv7: they sort by age.
-- Status: 1 pending, 2 running, 3 compensating, 4 suspended, 5 completed, 6 compensated, 7 failed.

CREATE TABLE sagas (
    id              BLOB    NOT NULL PRIMARY KEY,
    version         INTEGER NOT NULL,           -- transitions it has been through; fences concurrent writers
    definition      TEXT    NOT NULL,
    revision        INTEGER NOT NULL,
    key             TEXT,
    status          INTEGER NOT NULL,
    previous_status INTEGER,                    -- before the last transition: what `counters` has to take back
    priority        INTEGER NOT NULL,
    held            INTEGER,                    -- waits to be let in: 1 for its turn, 2 behind a lock that was taken
    lock_key        TEXT,                       -- while it is held: the lock that it needs
    itemized        INTEGER NOT NULL DEFAULT 0, -- 1: it has rows in `items`
    parent          BLOB,                       -- the saga that it is a step of
    due             INTEGER,                    -- when its next timer is due
    due_slot        INTEGER,                    -- due >> 10
    created_at      INTEGER NOT NULL,
    started_at      INTEGER,
    updated_at      INTEGER NOT NULL,
    ended_at        INTEGER,
    state           BLOB    NOT NULL,
    input           BLOB    NOT NULL
) STRICT;

-- Nearly every transition changes `due`, but few change the second it is in: so most leave all indexes alone.
CREATE INDEX sagas_due ON sagas (due_slot) WHERE due_slot IS NOT NULL;
-- The list, newest first: of one status, and of one definition (as one branch for each status).
CREATE INDEX sagas_status ON sagas (status, id);
CREATE INDEX sagas_definition ON sagas (definition, status, id);
CREATE INDEX sagas_key ON sagas (key) WHERE key IS NOT NULL;
-- Who is let in next, and who is next at each lock.
CREATE INDEX sagas_turn ON sagas (definition, priority DESC, id) WHERE held = 1;
CREATE INDEX sagas_behind ON sagas (definition, lock_key, priority DESC, id) WHERE held = 2;

-- One row a transition; `entries` is a JSON array.
CREATE TABLE journal (
    saga_id   BLOB    NOT NULL,
    version   INTEGER NOT NULL,
    first_seq INTEGER NOT NULL,
    at        INTEGER NOT NULL,
    entries   BLOB    NOT NULL,
    PRIMARY KEY (saga_id, version)
) STRICT;

-- The elements of foreach steps, in chunks, so that a transition writes only the chunk that changed.
CREATE TABLE items (
    saga_id BLOB    NOT NULL,
    step    INTEGER NOT NULL,
    chunk   INTEGER NOT NULL,                   -- -1: the list of the elements themselves
    version INTEGER NOT NULL,                   -- of the saga, when the chunk was last written
    state   BLOB    NOT NULL,
    PRIMARY KEY (saga_id, step, chunk)
) STRICT;

-- Messages that the broker has not confirmed.
CREATE TABLE outbox (
    id           BLOB    NOT NULL PRIMARY KEY,
    saga_id      BLOB    NOT NULL,
    leased_until INTEGER NOT NULL,
    handed       INTEGER NOT NULL,              -- how many times it was given to somebody to be sent
    exchange     TEXT    NOT NULL,
    routing_key  TEXT    NOT NULL,
    mandatory    INTEGER NOT NULL,
    properties   TEXT    NOT NULL,
    body         BLOB    NOT NULL
) STRICT;

CREATE INDEX outbox_leased_until ON outbox (leased_until, id);

-- What only one saga may hold. Kind: 1 business key, 2 idempotency key of a start, 3 lock, 4 one of the slots for running
-- sagas. Those of kind 2 outlive their saga.
CREATE TABLE claims (
    definition TEXT    NOT NULL,
    kind       INTEGER NOT NULL,
    token      TEXT    NOT NULL,
    saga_id    BLOB    NOT NULL,
    previous   BLOB    NOT NULL,                -- the saga it was taken over from; zeros: none
    status     INTEGER,                         -- the last one that is known of a saga that may be gone
    PRIMARY KEY (definition, kind, token)
) STRICT, WITHOUT ROWID;
-- Business keys are found by their saga's.
CREATE INDEX claims_saga ON claims (saga_id) WHERE kind <> 1;

-- Every text that a definition has had.
CREATE TABLE definitions (
    name       TEXT    NOT NULL,
    revision   INTEGER NOT NULL,
    digest     BLOB    NOT NULL,                -- SHA-256 of both texts
    source     TEXT    NOT NULL,
    schema     TEXT,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (name, revision),
    UNIQUE (name, digest)
) STRICT;

-- How many sagas each definition has in each status: the sum over the slots.
CREATE TABLE counters (
    definition TEXT    NOT NULL,
    status     INTEGER NOT NULL,
    slot       INTEGER NOT NULL,
    sagas      INTEGER NOT NULL,
    PRIMARY KEY (definition, status, slot)
) STRICT, WITHOUT ROWID;

-- Messages that nobody could read or place.
CREATE TABLE dead_letters (
    id          BLOB    NOT NULL PRIMARY KEY,
    at          INTEGER NOT NULL,
    reason      TEXT    NOT NULL,
    queue       TEXT    NOT NULL,
    exchange    TEXT    NOT NULL,
    routing_key TEXT    NOT NULL,
    redelivered INTEGER NOT NULL,
    properties  TEXT    NOT NULL,
    body        BLOB    NOT NULL
) STRICT;

CREATE TABLE secrets (
    name  TEXT NOT NULL PRIMARY KEY,
    value BLOB NOT NULL
) STRICT;
