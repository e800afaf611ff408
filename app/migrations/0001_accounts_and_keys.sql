CREATE EXTENSION IF NOT EXISTS vector WITH SCHEMA public;

CREATE TABLE accounts (
    id          text PRIMARY KEY,
    name        text NOT NULL UNIQUE,
    max_running integer CHECK (max_running > 0),
    max_queued  integer CHECK (max_queued > 0),
    created_at  timestamptz NOT NULL DEFAULT now()
);

-- idempotency_hash: of account and Idempotency-Key, cleared when it is older than a day; body_hash: of the request.
CREATE TABLE api_keys (
    id               text PRIMARY KEY,
    account          text NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    name             text NOT NULL,
    hash             bytea NOT NULL UNIQUE,
    prefix           text NOT NULL,
    scopes           text[] NOT NULL,
    user_id          text,
    root             boolean NOT NULL DEFAULT false,
    created_at       timestamptz NOT NULL DEFAULT now(),
    expires_at       timestamptz,
    revoked_at       timestamptz,
    last_used_at     timestamptz,
    idempotency_hash bytea UNIQUE,
    body_hash        bytea
);
CREATE INDEX api_keys_of_account ON api_keys (account, created_at DESC);
CREATE UNIQUE INDEX one_live_root_key ON api_keys (root) WHERE root AND revoked_at IS NULL;

CREATE TABLE key_version (
    one     boolean PRIMARY KEY DEFAULT true CHECK (one),
    version bigint NOT NULL
);
INSERT INTO key_version (version) VALUES (1);

-- Whoever changes a key or a limit, by hand too, tells every process's cache: the number changes with the commit.
CREATE FUNCTION bump_key_version() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('UPDATE %I.key_version SET version = version + 1', TG_TABLE_SCHEMA);
    RETURN NULL;
END $$;
CREATE TRIGGER keys_changed
    AFTER INSERT OR DELETE OR TRUNCATE
    OR UPDATE OF account, hash, scopes, user_id, root, expires_at, revoked_at ON api_keys
    FOR EACH STATEMENT EXECUTE FUNCTION bump_key_version();
CREATE TRIGGER limits_changed
    AFTER DELETE OR UPDATE OF max_running, max_queued ON accounts
    FOR EACH STATEMENT EXECUTE FUNCTION bump_key_version();

CREATE TABLE secrets (
    name  text PRIMARY KEY,
    value bytea NOT NULL
);
