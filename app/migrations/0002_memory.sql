-- One end user of one account. Everything remembered hangs on it, so that no statement can reach two users at once.
CREATE TABLE owners (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account    text NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    user_id    text NOT NULL,
    privacy    jsonb NOT NULL DEFAULT '{}',
    bio        jsonb,
    changed_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (account, user_id)
);

-- platform and external_id name it outside: ('reprise', thread or message id) for messages, an export's ids for others.
CREATE TABLE conversations (
    id          text PRIMARY KEY,
    owner       bigint NOT NULL REFERENCES owners (id) ON DELETE CASCADE,
    platform    text NOT NULL,
    external_id text NOT NULL,
    title       text,
    agent_id    text,
    thread_id   text,
    source      text,
    metadata    jsonb NOT NULL DEFAULT '{}',
    created_at  timestamptz NOT NULL DEFAULT now(),
    updated_at  timestamptz NOT NULL DEFAULT now(),
    UNIQUE (owner, platform, external_id)
);
CREATE INDEX conversations_by_time ON conversations (owner, updated_at DESC);

-- key: derived from what the turn says and where (its conversation included), so that storing it again changes nothing.
-- message_id: the asynchronous message that brought it. external_id: its id in the export it came from.
CREATE TABLE turns (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    conversation text NOT NULL REFERENCES conversations (id) ON DELETE CASCADE,
    owner        bigint NOT NULL REFERENCES owners (id) ON DELETE CASCADE,
    key          text NOT NULL,
    position     integer NOT NULL,
    role         text NOT NULL CHECK (role IN ('user', 'assistant')),
    text         text NOT NULL,
    said_at      timestamptz NOT NULL,
    message_id   text,
    external_id  text,
    metadata     jsonb NOT NULL DEFAULT '{}',
    UNIQUE (owner, key)
);
CREATE INDEX turns_in_order ON turns (conversation, position, id);
CREATE INDEX turns_of_message ON turns (owner, message_id) WHERE message_id IS NOT NULL;

-- Keys of turns that were removed on purpose: a client that sends its history again does not bring them back.
CREATE TABLE forgotten_turns (
    owner bigint NOT NULL REFERENCES owners (id) ON DELETE CASCADE,
    key   text NOT NULL,
    PRIMARY KEY (owner, key)
);

-- normal: a hash of the normalised text, for a text of any length. valid_from and valid_to: when it was true. A superseded memory keeps its row; deleted_at hides one until it is purged.
CREATE TABLE memories (
    id            text PRIMARY KEY,
    owner         bigint NOT NULL REFERENCES owners (id) ON DELETE CASCADE,
    text          text NOT NULL,
    normal        text NOT NULL,
    type          text NOT NULL CHECK (type IN ('semantic', 'episodic')),
    categories    text[] NOT NULL DEFAULT '{}',
    importance    double precision NOT NULL DEFAULT 0.5 CHECK (importance BETWEEN 0 AND 1),
    agent_id      text,
    thread_id     text,
    source        text,
    conversation  text REFERENCES conversations (id) ON DELETE SET NULL,
    message_id    text,
    turn_keys     text[] NOT NULL DEFAULT '{}',
    extractor     text NOT NULL,
    metadata      jsonb NOT NULL DEFAULT '{}',
    valid_from    timestamptz NOT NULL,
    valid_to      timestamptz,
    superseded_by text REFERENCES memories (id) ON DELETE SET NULL,
    created_at    timestamptz NOT NULL DEFAULT now(),
    updated_at    timestamptz NOT NULL DEFAULT now(),
    deleted_at    timestamptz,
    backup        text
);
CREATE INDEX memories_by_time ON memories (owner, created_at, id) WHERE deleted_at IS NULL;
CREATE INDEX memories_by_text ON memories (owner, normal) WHERE deleted_at IS NULL;
CREATE INDEX memories_of_message ON memories (owner, message_id) WHERE message_id IS NOT NULL;
CREATE INDEX memories_superseded ON memories (superseded_by) WHERE superseded_by IS NOT NULL;
CREATE INDEX memories_of_conversation ON memories (conversation) WHERE conversation IS NOT NULL;
CREATE INDEX memories_to_purge ON memories (deleted_at) WHERE deleted_at IS NOT NULL;

CREATE TABLE memory_history (
    id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    memory text NOT NULL REFERENCES memories (id) ON DELETE CASCADE,
    at     timestamptz NOT NULL DEFAULT now(),
    event  text NOT NULL CHECK (event IN ('created', 'updated', 'superseded', 'deleted', 'restored')),
    before jsonb,
    after  jsonb
);
CREATE INDEX memory_history_of ON memory_history (memory, id);

-- turns: the turns a cascade removed, whole.
CREATE TABLE memory_backups (
    id          text PRIMARY KEY,
    owner       bigint NOT NULL REFERENCES owners (id) ON DELETE CASCADE,
    memory_ids  text[] NOT NULL,
    turns       jsonb NOT NULL DEFAULT '[]',
    created_at  timestamptz NOT NULL DEFAULT now(),
    restored_at timestamptz
);
CREATE INDEX memory_backups_by_time ON memory_backups (created_at);

-- What search ranks: a turn (or a piece of a long one) or a memory. text is what is embedded; length counts the terms
-- of its window, the text with its neighbours, which is what the postings hold.
CREATE TABLE units (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    owner        bigint NOT NULL REFERENCES owners (id) ON DELETE CASCADE,
    turn         bigint REFERENCES turns (id) ON DELETE CASCADE,
    memory       text REFERENCES memories (id) ON DELETE CASCADE,
    piece        integer NOT NULL DEFAULT 0,
    text         text NOT NULL,
    length       real NOT NULL,
    embedding    vector,
    CHECK ((turn IS NULL) <> (memory IS NULL))
);
CREATE UNIQUE INDEX units_of_turns ON units (turn, piece) WHERE turn IS NOT NULL;
CREATE UNIQUE INDEX units_of_memories ON units (memory, piece) WHERE memory IS NOT NULL;
CREATE INDEX units_of_owner ON units (owner) INCLUDE (id, length);
CREATE INDEX units_without_embedding ON units (id) WHERE embedding IS NULL;

CREATE TABLE postings (
    owner bigint NOT NULL,
    term  text NOT NULL,
    unit  bigint NOT NULL REFERENCES units (id) ON DELETE CASCADE,
    count real NOT NULL,
    PRIMARY KEY (owner, term, unit) INCLUDE (count)
);
CREATE INDEX postings_of_unit ON postings (unit);

-- The model all embeddings were made by.
CREATE TABLE embedding_model (
    one       boolean PRIMARY KEY DEFAULT true CHECK (one),
    name      text NOT NULL,
    dimension integer NOT NULL
);

-- Messages that were remembered: the done mark, and what answers past retention. noted: the message's own status tells of
-- its memories; false from the commit of an extraction until it does.
CREATE TABLE remembered (
    account      text NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    message_id   text NOT NULL,
    created_ms   bigint NOT NULL,
    owner        bigint REFERENCES owners (id) ON DELETE CASCADE,
    conversation text,
    status       text NOT NULL CHECK (status IN ('stored', 'skipped', 'failed')),
    reason       text,
    record       bytea,
    content      bytea,
    noted        boolean NOT NULL DEFAULT true,
    at           timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (account, message_id)
);
CREATE INDEX remembered_to_note ON remembered (at) WHERE NOT noted;

-- Deleted messages: whoever stores one looks here first, in the storing transaction. created_ms: of the newest message
-- of this id that was deleted; one that was created later, under the same id again, is another.
CREATE TABLE tombstones (
    account    text NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    message_id text NOT NULL,
    created_ms bigint NOT NULL,
    at         timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (account, message_id)
);
CREATE INDEX tombstones_by_time ON tombstones (at);

-- Conversations whose newest turns a model has yet to read, one row each: a pause after the last turn (due_at) makes one
-- call of many turns. since: when the first of them came, for a pause that never comes. done_to: the last turn read.
-- claimed_until: a lease, so that a killed worker's work is taken over.
CREATE TABLE extractions (
    conversation  text PRIMARY KEY REFERENCES conversations (id) ON DELETE CASCADE,
    owner         bigint NOT NULL REFERENCES owners (id) ON DELETE CASCADE,
    due_at        timestamptz,
    since         timestamptz,
    done_to       bigint NOT NULL DEFAULT 0,
    tries         integer NOT NULL DEFAULT 0,
    reason        text,
    claimed_until timestamptz
);
CREATE INDEX extractions_due ON extractions (due_at) WHERE due_at IS NOT NULL;

-- What a creation under an Idempotency-Key made, for a day. Texts are not kept: deleting a memory reaches them all.
CREATE TABLE memory_creations (
    account    text NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    key_hash   bytea NOT NULL,
    body_hash  bytea NOT NULL,
    record     jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (account, key_hash)
);
CREATE INDEX memory_creations_by_time ON memory_creations (created_at);
