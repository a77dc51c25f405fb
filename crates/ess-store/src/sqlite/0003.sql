-- What payloads look like, by subject and version, and what scripts look up. A hub that knows neither leaves them alone.
create table json_schema (
    id text primary key check (length(id) between 1 and 600),
    document text not null
) strict, without rowid;

create table lookup_table (
    id text primary key check (length(id) between 1 and 64),
    document text not null
) strict, without rowid;
