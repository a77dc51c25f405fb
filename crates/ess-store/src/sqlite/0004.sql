-- The ledger's Merkle tree in tiles of 256 hashes: level 0 holds the leaves' hashes, level 1 those of whole trees of 256 leaves, and so
-- on. It is derived from the ledger, off the path of deliveries; the checkpoints over it are what an auditor keeps.
create table ledger_tile (
    level integer not null check (level between 0 and 7),
    idx integer not null check (idx >= 0),
    hashes blob not null check (length(hashes) between 32 and 8192 and length(hashes) % 32 = 0),
    primary key (level, idx)
) strict, without rowid;

create table checkpoint (
    size integer primary key check (size >= 0),
    at integer not null,
    note text not null
) strict;
