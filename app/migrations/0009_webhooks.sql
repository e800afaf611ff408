-- What has happened and the account is to be told of: written by the transaction that makes it true, gone when told.
CREATE TABLE outbox (
    id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account  text NOT NULL,
    user_id  text NOT NULL,
    kind     text NOT NULL,
    event_id text NOT NULL UNIQUE DEFAULT 'evt_' || replace(gen_random_uuid()::text, '-', ''),
    data     json NOT NULL,
    at       timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- user_id: whose events it gets, NULL for everybody's. reason: why it is disabled. failing_since: of the first failure
-- after the last success. secret: what signs; previous_secret signs as well until previous_until.
CREATE TABLE webhooks (
    id               text PRIMARY KEY,
    account          text NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    user_id          text,
    url              text NOT NULL,
    events           text[] NOT NULL,
    description      text NOT NULL DEFAULT '',
    status           text NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'disabled')),
    reason           text,
    failing_since    timestamptz,
    secret           text NOT NULL,
    rotated_at       timestamptz,
    previous_secret  text,
    previous_until   timestamptz,
    created_at       timestamptz NOT NULL DEFAULT now(),
    updated_at       timestamptz NOT NULL DEFAULT now(),
    idempotency_hash bytea UNIQUE,
    body_hash        bytea
);
CREATE INDEX webhooks_of_account ON webhooks (account, created_at DESC);

-- An event on its way to one webhook. body: the bytes that are signed. attempts: all there were; tries: those since it
-- was last (re)delivered. next_at: when the next is due, or while it is claimed the end of that lease.
CREATE TABLE deliveries (
    id           text PRIMARY KEY,
    webhook      text NOT NULL REFERENCES webhooks (id) ON DELETE CASCADE,
    event_id     text NOT NULL,
    kind         text NOT NULL,
    body         text NOT NULL,
    status       text NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'delivered', 'dead')),
    attempts     integer NOT NULL DEFAULT 0,
    tries        integer NOT NULL DEFAULT 0,
    next_at      timestamptz NOT NULL DEFAULT now(),
    claim        text,
    created_at   timestamptz NOT NULL DEFAULT now(),
    ended_at     timestamptz,
    UNIQUE (webhook, event_id)
);
CREATE INDEX deliveries_by_time ON deliveries (webhook, id DESC);
CREATE INDEX deliveries_waiting ON deliveries (webhook, next_at) WHERE status = 'pending';
CREATE INDEX deliveries_claimed ON deliveries (webhook) WHERE claim IS NOT NULL;
CREATE INDEX deliveries_ended ON deliveries (ended_at) WHERE ended_at IS NOT NULL;

-- What became of one attempt. status: the receiver's, NULL where there was no answer; error says why then.
CREATE TABLE delivery_attempts (
    delivery text NOT NULL REFERENCES deliveries (id) ON DELETE CASCADE,
    number   integer NOT NULL,
    at       timestamptz NOT NULL,
    ms       integer NOT NULL,
    status   integer,
    error    text,
    response text NOT NULL DEFAULT '',
    PRIMARY KEY (delivery, number)
);

INSERT INTO secrets (name, value) VALUES ('webhooks',
    decode(replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', ''), 'hex'));
