-- What was superseded or corrected is looked for by every search.
CREATE INDEX memories_changed ON memories (owner)
    WHERE deleted_at IS NULL AND (valid_to IS NOT NULL OR updated_at > created_at);

-- A unit's postings go with it. A foreign key would do the same, and check every posting that is written: half the cost
-- of writing it. They are written with their unit, its owner locked, and by nobody else.
ALTER TABLE postings DROP CONSTRAINT postings_unit_fkey;

CREATE FUNCTION delete_postings() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM postings p USING gone WHERE p.unit = gone.id;
    RETURN NULL;
END $$;

CREATE TRIGGER postings_go_with_units AFTER DELETE ON units
    REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION delete_postings();
