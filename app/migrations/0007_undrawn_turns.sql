-- Turns that an integration stored, and that no memories were drawn from yet: whoever is sent them again draws from them.
CREATE TABLE undrawn_turns (
    owner bigint NOT NULL,
    key   text NOT NULL,
    PRIMARY KEY (owner, key),
    FOREIGN KEY (owner, key) REFERENCES turns (owner, key) ON UPDATE CASCADE ON DELETE CASCADE
);
INSERT INTO undrawn_turns (owner, key)
SELECT DISTINCT t.owner, t.key FROM integration_items one
JOIN integrations i ON i.id = one.integration
JOIN turns t ON t.owner = i.owner AND t.key = ANY (one.turns)
WHERE one.turns IS NOT NULL AND one.state <> 'done';
