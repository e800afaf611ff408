-- Imports with their progress: one row each. request: how it is to be read; secret: what its source asks for, gone with
-- its end. step: the one it is in, from 0. place: where that step goes on. left_in_step: items that it has yet to take.
-- last_seq: of its newest event. claim: of the worker that has it, until claimed_until.
CREATE TABLE integrations (
    id               text PRIMARY KEY,
    owner            bigint NOT NULL REFERENCES owners (id) ON DELETE CASCADE,
    type             text NOT NULL CHECK (type IN ('social', 'file', 'chat', 'api')),
    platform         text NOT NULL,
    name             text,
    status           text NOT NULL DEFAULT 'receiving'
        CHECK (status IN ('receiving', 'pending', 'processing', 'completed', 'failed', 'cancelled')),
    request          json NOT NULL,
    secret           json,
    step             integer NOT NULL DEFAULT 0,
    place            text,
    percentage       integer NOT NULL DEFAULT 0,
    items_total      integer NOT NULL DEFAULT 0,
    items_processed  integer NOT NULL DEFAULT 0,
    memories_created integer NOT NULL DEFAULT 0,
    errors_count     integer NOT NULL DEFAULT 0,
    worked_ms        bigint NOT NULL DEFAULT 0,
    failure          json,
    last_seq         bigint NOT NULL DEFAULT 0,
    tries            integer NOT NULL DEFAULT 0,
    claim            text,
    claimed_until    timestamptz,
    due_at           timestamptz NOT NULL DEFAULT now(),
    estimated_at     timestamptz,
    created_at       timestamptz NOT NULL DEFAULT now(),
    last_activity    timestamptz NOT NULL DEFAULT now(),
    completed_at     timestamptz,
    key_hash         bytea,
    body_hash        bytea,
    UNIQUE (owner, key_hash)
);
CREATE INDEX integrations_of_owner ON integrations (owner, id DESC);
CREATE INDEX integrations_waiting ON integrations (due_at) WHERE status IN ('pending', 'processing');
CREATE INDEX integrations_receiving ON integrations (created_at) WHERE status = 'receiving';

-- What was sent, until it is read: files in parts.
CREATE TABLE integration_files (
    integration text NOT NULL REFERENCES integrations (id) ON DELETE CASCADE,
    file        integer NOT NULL,
    name        text NOT NULL,
    PRIMARY KEY (integration, file)
);
CREATE TABLE integration_parts (
    integration text NOT NULL,
    file        integer NOT NULL,
    part        integer NOT NULL,
    data        bytea NOT NULL,
    PRIMARY KEY (integration, file, part),
    FOREIGN KEY (integration, file) REFERENCES integration_files (integration, file) ON DELETE CASCADE
);

-- What an integration brings, one by one. step: the one that takes it next, or that it failed in. payload: what is left
-- to be done with. turns, conversation: what was stored of it; made: the conversation was not there before.
CREATE TABLE integration_items (
    integration  text NOT NULL REFERENCES integrations (id) ON DELETE CASCADE,
    position     integer NOT NULL,
    item_id      text NOT NULL,
    step         integer NOT NULL,
    state        text NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'done', 'failed')),
    counted      boolean NOT NULL DEFAULT false,
    payload      bytea,
    conversation text,
    made         boolean NOT NULL DEFAULT false,
    turns        text[],
    memory_ids   text[] NOT NULL DEFAULT '{}',
    code         text,
    message      text,
    failed_at    timestamptz,
    PRIMARY KEY (integration, position)
);
CREATE INDEX integration_items_waiting ON integration_items (integration, step, position) WHERE state = 'waiting';
CREATE INDEX integration_items_failed ON integration_items (integration, position) WHERE state = 'failed';

-- What its watchers are told, densely numbered; the data of one Server-Sent Event each.
CREATE TABLE integration_events (
    integration text NOT NULL REFERENCES integrations (id) ON DELETE CASCADE,
    seq         bigint NOT NULL,
    type        text NOT NULL,
    data        json NOT NULL,
    at          timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (integration, seq)
);

-- told: a hash of a memory's words without fillers, by which those that may say the same are found; NULL of older ones.
ALTER TABLE memories ADD COLUMN told text;
CREATE INDEX memories_by_words ON memories (owner, told) WHERE deleted_at IS NULL AND valid_to IS NULL;
