-- Retention. An event's row stays when its payload goes, by age or by redaction: its digest is what receipts prove by, and readers
-- of the log and the partners' counters see no gap.
alter table event add column gone_at integer;
alter table event add column gone_by text check (gone_by is null or length(gone_by) <= 128);
alter table event add column gone_why text check (gone_why is null or length(gone_why) <= 4096);

create table legal_hold (
    number integer primary key,
    event text check (event is null or length(event) between 1 and 128),
    subject text check (subject is null or length(subject) between 1 and 256),
    at integer not null,
    actor text not null,
    reason text not null check (length(reason) between 1 and 4096),
    lifted_at integer,
    lifted_by text,
    lifted_why text check (lifted_why is null or length(lifted_why) <= 4096),
    check ((event is null) <> (subject is null))
) strict;

-- How far the log was looked through for payloads whose time has come; what was needed still is looked at again by its place.
create table retention_mark (
    what text primary key check (what in ('events', 'tests')),
    seq integer not null check (seq >= 0)
) strict, without rowid;

create table retention_later (
    seq integer primary key
) strict;
