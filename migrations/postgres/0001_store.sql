-- Times are milliseconds since 1970-01-01T00:00:00Z. Ids are UUIDv7: they sort by age.
-- Status: 1 pending, 2 running, 3 compensating, 4 suspended, 5 completed, 6 compensated, 7 failed.

CREATE TABLE sagas (
    id              uuid     NOT NULL PRIMARY KEY,
    version         bigint   NOT NULL,          -- transitions it has been through; fences concurrent writers
    due             bigint,                     -- when its next timer is due
    due_slot        bigint,                     -- due >> 10
    created_at      bigint   NOT NULL,
    started_at      bigint,
    updated_at      bigint   NOT NULL,
    ended_at        bigint,
    revision        bigint   NOT NULL,
    status          smallint NOT NULL,
    previous_status smallint,                   -- before the last transition: what `counters` has to take back
    priority        smallint NOT NULL,
    held            smallint,                   -- waits to be let in: 1 for its turn, 2 behind a lock that was taken
    itemized        smallint NOT NULL DEFAULT 0, -- 1: it has rows in `items`
    parent          uuid,                       -- the saga that it is a step of
    definition      text     NOT NULL,
    key             text,
    lock_key        text,                       -- while it is held: the lock that it needs
    state           bytea    NOT NULL,
    input           bytea    NOT NULL
-- Room for a new version of a row beside the old one.
) WITH (fillfactor = 80);
-- Rewritten at each transition: compressing it costs more than it saves.
ALTER TABLE sagas ALTER COLUMN state SET STORAGE EXTERNAL;

-- Nearly every transition changes `due`, but few change the second it is in: so most leave all indexes alone, and Postgres
-- updates the row within its page (HOT), at half the cost.
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
    saga_id   uuid   NOT NULL,
    version   bigint NOT NULL,
    first_seq bigint NOT NULL,
    at        bigint NOT NULL,
    entries   bytea  NOT NULL,
    PRIMARY KEY (saga_id, version)
);

-- The elements of foreach steps, in chunks, so that a transition writes only the chunk that changed.
CREATE TABLE items (
    saga_id uuid   NOT NULL,
    version bigint NOT NULL,                    -- of the saga, when the chunk was last written
    step    bigint NOT NULL,
    chunk   bigint NOT NULL,                    -- -1: the list of the elements themselves
    state   bytea  NOT NULL,
    PRIMARY KEY (saga_id, step, chunk)
) WITH (fillfactor = 80);
ALTER TABLE items ALTER COLUMN state SET STORAGE EXTERNAL;

-- Messages that the broker has not confirmed.
CREATE TABLE outbox (
    id           uuid     NOT NULL PRIMARY KEY,
    saga_id      uuid     NOT NULL,
    leased_until bigint   NOT NULL,
    handed       bigint   NOT NULL,             -- how many times it was given to somebody to be sent
    mandatory    smallint NOT NULL,
    exchange     text     NOT NULL,
    routing_key  text     NOT NULL,
    properties   text     NOT NULL,
    body         bytea    NOT NULL
-- Nearly every row is dead within milliseconds: vacuum by their number, not by a share of the table.
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000);
ALTER TABLE outbox ALTER COLUMN body SET STORAGE EXTERNAL;

CREATE INDEX outbox_leased_until ON outbox (leased_until, id);

-- What only one saga may hold. Kind: 1 business key, 2 idempotency key of a start, 3 lock, 4 one of the slots for running
-- sagas. Those of kind 2 outlive their saga.
CREATE TABLE claims (
    saga_id    uuid     NOT NULL,
    previous   uuid     NOT NULL,               -- the saga it was taken over from; zeros: none
    kind       smallint NOT NULL,
    status     smallint,                        -- the last one that is known of a saga that may be gone
    definition text     NOT NULL,
    token      text     NOT NULL,
    PRIMARY KEY (definition, kind, token)
);
-- Business keys are found by their saga's.
CREATE INDEX claims_saga ON claims (saga_id) WHERE kind <> 1;

-- Every text that a definition has had.
CREATE TABLE definitions (
    name       text   NOT NULL,
    revision   bigint NOT NULL,
    digest     bytea  NOT NULL,                 -- SHA-256 of both texts
    source     text   NOT NULL,
    schema     text,
    created_at bigint NOT NULL,
    PRIMARY KEY (name, revision),
    UNIQUE (name, digest)
);

-- How many sagas each definition has in each status: the sum over the slots, of which each connection writes one, so
-- that transactions do not queue up for a row.
CREATE TABLE counters (
    definition text     NOT NULL,
    status     smallint NOT NULL,
    slot       smallint NOT NULL,
    sagas      bigint   NOT NULL,
    PRIMARY KEY (definition, status, slot)
);

-- Messages that nobody could read or place.
CREATE TABLE dead_letters (
    id          uuid     NOT NULL PRIMARY KEY,
    at          bigint   NOT NULL,
    redelivered smallint NOT NULL,
    reason      text     NOT NULL,
    queue       text     NOT NULL,
    exchange    text     NOT NULL,
    routing_key text     NOT NULL,
    properties  text     NOT NULL,
    body        bytea    NOT NULL
);

CREATE TABLE secrets (
    name  text  NOT NULL PRIMARY KEY,
    value bytea NOT NULL
);
