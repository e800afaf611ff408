-- Rotating keeps the key's id and gives it another text. previous_hash: of the text before, good until previous_until.
ALTER TABLE api_keys
    ADD COLUMN rotated_at     timestamptz,
    ADD COLUMN previous_hash  bytea UNIQUE,
    ADD COLUMN previous_until timestamptz;
