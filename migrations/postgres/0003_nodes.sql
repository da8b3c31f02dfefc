-- Several daemons ("nodes") serve one database. A node lives as long as its row in `nodes`; whoever finds that row expired
-- removes it, and that is the only way in which a node dies. A group of lanes is leased to one node at a time. Internal
-- tables: feeders and consumers need no right on them.

CREATE TABLE nodes (
    node_id TEXT COLLATE "C" NOT NULL PRIMARY KEY, -- another one at each start
    name TEXT NOT NULL, -- for people
    version TEXT NOT NULL,
    schema_version BIGINT NOT NULL, -- the newest that its program knows
    settings TEXT NOT NULL, -- of settings that should be the same on every node
    accounts TEXT[] NOT NULL, -- those that its configuration names
    draining BOOLEAN NOT NULL DEFAULT false, -- it stops, and takes no more groups
    promises JSONB NOT NULL DEFAULT '[]', -- metered calls that its lanes' months will have cost at most before the next sign of life
    condition TEXT, -- what it publishes of itself, JSON
    started_at BIGINT NOT NULL DEFAULT ((extract(epoch FROM now()) * 1000)::BIGINT),
    heard_of_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL
) WITH (fillfactor = 50);

CREATE TABLE leases (
    name TEXT COLLATE "C" NOT NULL PRIMARY KEY, -- of the group
    accounts TEXT[] NOT NULL, -- whose lanes are in it …
    corp_id TEXT COLLATE "C" NOT NULL DEFAULT '', -- … or of its one account this organisation alone
    node_id TEXT COLLATE "C", -- NULL: free
    epoch BIGINT NOT NULL, -- grows whenever the group changes hands
    changed_at BIGINT NOT NULL
) WITH (fillfactor = 50);
CREATE INDEX leases_of_a_node ON leases (node_id) WHERE node_id IS NOT NULL;
