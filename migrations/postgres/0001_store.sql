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
    definition      text     NOT NULL,
    key             text,
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

-- One row a transition; `entries` is a JSON array.
CREATE TABLE journal (
    saga_id   uuid   NOT NULL,
    version   bigint NOT NULL,
    first_seq bigint NOT NULL,
    at        bigint NOT NULL,
    entries   bytea  NOT NULL,
    PRIMARY KEY (saga_id, version)
);

-- Messages that the broker has not confirmed.
CREATE TABLE outbox (
    id           uuid     NOT NULL PRIMARY KEY,
    saga_id      uuid     NOT NULL,
    leased_until bigint   NOT NULL,
    mandatory    smallint NOT NULL,
    exchange     text     NOT NULL,
    routing_key  text     NOT NULL,
    properties   text     NOT NULL,
    body         bytea    NOT NULL
-- Nearly every row is dead within milliseconds: vacuum by their number, not by a share of the table.
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000);
ALTER TABLE outbox ALTER COLUMN body SET STORAGE EXTERNAL;

CREATE INDEX outbox_leased_until ON outbox (leased_until, id);

-- What only one saga may hold. Kind: 1 business key, 2 idempotency key of a start.
CREATE TABLE claims (
    saga_id    uuid     NOT NULL,
    previous   uuid     NOT NULL,               -- the saga it was taken over from; zeros: none
    kind       smallint NOT NULL,
    definition text     NOT NULL,
    token      text     NOT NULL,
    PRIMARY KEY (definition, kind, token)
);

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
