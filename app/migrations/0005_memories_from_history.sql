-- memories: whether memories are to be drawn from a brought conversation; null: as its user's privacy settings say.
ALTER TABLE uploads ADD COLUMN memories boolean;

-- chosen: the keys of the turns that are to be read, of a brought conversation: not all of them are, and those that were
-- edited are read again. Null: those after done_to.
ALTER TABLE extractions ADD COLUMN chosen text[];
