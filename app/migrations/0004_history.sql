-- Where conversations were brought from: one row for each platform of an owner.
CREATE TABLE imports (
    id           text PRIMARY KEY,
    owner        bigint NOT NULL REFERENCES owners (id) ON DELETE CASCADE,
    platform     text NOT NULL,
    display_name text,
    created_at   timestamptz NOT NULL DEFAULT now(),
    UNIQUE (owner, platform)
);

-- status: how far a conversation is on its way into the search; reason: why it is not going there.
ALTER TABLE conversations
    ADD COLUMN status text NOT NULL DEFAULT 'indexed'
        CHECK (status IN ('queued', 'processing', 'indexed', 'rejected', 'failed')),
    ADD COLUMN reason text;
CREATE INDEX conversations_processing ON conversations (id) WHERE status = 'processing';

-- revised_at: of the newest snapshot that said this of the turn. An older one never overwrites it.
ALTER TABLE turns ADD COLUMN revised_at timestamptz;
CREATE INDEX turns_by_external_id ON turns (conversation, external_id) WHERE external_id IS NOT NULL;

-- Snapshots of conversations as they were sent, until they are stored: one row each, its body in parts. claimed_until: a
-- lease, so that a killed worker's work is taken over.
CREATE TABLE uploads (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    owner         bigint NOT NULL REFERENCES owners (id) ON DELETE CASCADE,
    conversation  text NOT NULL REFERENCES conversations (id) ON DELETE CASCADE,
    revised_at    timestamptz NOT NULL,
    created_at    timestamptz NOT NULL DEFAULT now(),
    due_at        timestamptz NOT NULL DEFAULT now(),
    claimed_until timestamptz,
    tries         integer NOT NULL DEFAULT 0
);
CREATE INDEX uploads_of_conversation ON uploads (conversation, id);

CREATE TABLE upload_parts (
    upload bigint NOT NULL REFERENCES uploads (id) ON DELETE CASCADE,
    part   integer NOT NULL,
    data   bytea NOT NULL,
    PRIMARY KEY (upload, part)
);
