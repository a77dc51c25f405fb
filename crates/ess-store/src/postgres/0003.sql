-- Who is signed in to the dashboard, who a node was before it was started again, and which older hubs get along with newer tables.

-- Known to every node, so that it does not matter which one a browser comes to.
-- `key` is a digest of the cookie's text, which is nowhere here; `token` stands for the token that was shown, as in `token.hash`.
-- What is to be told on the next page may bear a secret, and is sealed. `seen_at` moves once a minute at most.
create table dashboard_session (
    key bytea primary key check (octet_length(key) = 32),
    token bytea not null check (octet_length(token) = 32),
    began_at timestamptz not null default clock_timestamp(),
    seen_at timestamptz not null default clock_timestamp(),
    notice bytea check (octet_length(notice) <= 65536)
) with (fillfactor = 50);
create index dashboard_session_token on dashboard_session (token);

-- Stands for the data directory and the machine's boot: one process at a time has it. The next one there takes over from the last at once.
alter table node add column home bytea check (octet_length(home) = 32);

-- A hub that knows this many steps gets along with the tables as they are after this one; null is only who knows it.
alter table schema_step add column least integer;
