-- The whole schema as the steps leave it: for readers, and for the test that compares the two.
-- Times are UTC microseconds. Small sets of words stand as numbers where a row is written for each event, as words elsewhere.

create table setting (
    key text primary key,
    value blob not null
) strict, without rowid;

create table partner (
    no integer primary key check (no between 1 and 4294967295),
    id text not null check (length(id) between 1 and 64),
    document blob not null,
    secrets blob not null,
    added_at integer not null,
    paused_since integer,
    removed_at integer
) strict;
create unique index partner_id on partner (id) where removed_at is null;

create table bridge (
    id text primary key check (length(id) between 1 and 600),
    document text not null
) strict, without rowid;

create table json_schema (
    id text primary key check (length(id) between 1 and 600),
    document text not null
) strict, without rowid;

create table lookup_table (
    id text primary key check (length(id) between 1 and 64),
    document text not null
) strict, without rowid;

create table token (
    id text primary key,
    hash blob not null unique check (length(hash) = 32),
    role text not null check (role in ('publisher', 'partner', 'operator', 'auditor', 'admin')),
    subjects text not null,
    partner text,
    note text not null,
    created_at integer not null,
    expires_at integer,
    revoked_at integer
) strict, without rowid;

create table audit (
    number integer primary key,
    at integer not null,
    actor text not null,
    act text not null,
    object text not null,
    reason text
) strict;

create table audience (
    id integer primary key,
    digest blob not null unique check (length(digest) = 32),
    partners blob not null
) strict;

-- The payload comes last, so that what is asked for often is read without it; only what says why it is gone comes after it.
create table event (
    seq integer primary key check (seq >= 1),
    id text not null check (length(id) between 1 and 128),
    test integer not null check (test in (0, 1)),
    subject text not null check (length(subject) between 1 and 256),
    version integer not null check (version between 1 and 4294967295),
    kind integer not null check (kind between 0 and 2),
    priority integer not null check (priority between 0 and 1),
    recorded_at integer not null,
    audience integer not null constraint event_audience references audience (id),
    message blob not null check (length(message) = 16),
    digest blob not null check (length(digest) = 32),
    rest text not null,
    payload text not null,
    gone_at integer,
    gone_by text check (gone_by is null or length(gone_by) <= 128),
    gone_why text check (gone_why is null or length(gone_why) <= 4096)
) strict;
create unique index event_id on event (id, test);
create index event_subject on event (subject, seq);
create index event_urgent on event (seq) where priority = 1 or kind = 2;

create table lane (
    partner integer primary key constraint lane_partner references partner (no),
    cursor integer not null check (cursor >= 0),
    counted integer not null check (counted >= 0),
    offline_since integer,
    first_failed_at integer,
    failures integer not null check (failures >= 0),
    reached integer not null default 0,
    gave_up_at integer
) strict;
create index lane_given_up on lane (partner) where gave_up_at is not null;

-- Deliveries that are neither plainly pending nor ended.
create table open_delivery (
    partner integer not null,
    seq integer not null,
    round integer not null,
    subject text not null,
    test integer not null check (test in (0, 1)),
    kind integer not null check (kind between 0 and 2),
    priority integer not null check (priority between 0 and 1),
    state text not null check (state in ('pending', 'retrying', 'awaiting_ack', 'blocked')),
    attempts integer not null check (attempts >= 0),
    resends integer not null check (resends >= 0),
    due_at integer,
    first_failed_at integer,
    partner_seq integer,
    reason text check (length(reason) <= 4096),
    mend text check (length(mend) <= 4096),
    message blob check (message is null or length(message) = 16),
    sent_version integer,
    sent_digest blob check (sent_digest is null or length(sent_digest) = 32),
    sent_scripts blob check (sent_scripts is null or length(sent_scripts) % 32 = 0),
    fallback_at integer,
    primary key (partner, seq, round)
) strict, without rowid;
create index open_delivery_line on open_delivery (partner, subject, test, seq, round);
create index open_delivery_event on open_delivery (seq, partner, round);

-- Deliveries that ended without an ACK.
create table ended_delivery (
    partner integer not null,
    seq integer not null,
    round integer not null,
    test integer not null check (test in (0, 1)),
    state text not null check (state in ('nack', 'dead', 'superseded', 'cancelled')),
    at integer not null,
    reason text not null check (length(reason) <= 4096),
    attempts integer not null check (attempts >= 0),
    partner_seq integer,
    message blob check (message is null or length(message) = 16),
    sent_version integer,
    sent_digest blob check (sent_digest is null or length(sent_digest) = 32),
    primary key (partner, seq, round)
) strict, without rowid;
create index ended_delivery_event on ended_delivery (seq, partner, round);
create index ended_delivery_dead on ended_delivery (seq, partner, round) where state in ('dead', 'nack') and test = 0;

create index ended_delivery_partner on ended_delivery (partner, seq, round) where state in ('dead', 'nack') and test = 0;

create table attempt (
    seq integer not null,
    partner integer not null,
    round integer not null,
    number integer not null,
    at integer not null,
    took integer not null,
    status integer,
    outcome text not null check (length(outcome) between 1 and 32),
    reason text not null check (length(reason) <= 4096),
    primary key (seq, partner, round, number, at)
) strict, without rowid;

-- The Ack Ledger: the receipts that one commit brought for one event, and the hash chain after them.
create table ledger (
    first integer primary key check (first >= 0),
    count integer not null check (count >= 1),
    seq integer not null,
    entries blob not null,
    chain blob not null check (length(chain) = 32)
) strict;
create index ledger_event on ledger (seq);

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

-- What Ops were told of a partner's trouble and was not taken back: a restart neither repeats nor forgets it.
create table escalation (
    partner integer not null constraint escalation_partner references partner (no),
    cause text not null check (length(cause) between 1 and 32),
    target text not null check (length(target) between 1 and 64),
    told_at integer not null,
    since integer not null,
    urgent integer not null check (urgent in (0, 1)),
    primary key (partner, cause, target)
) strict, without rowid;

-- Few rows are in them: what a look at a partner's trouble asks for, whatever its backlog.
create index open_delivery_blocked on open_delivery (partner, seq, round) where state = 'blocked' and test = 0;
create index open_delivery_outstanding on open_delivery (partner, seq, round)
    where state = 'awaiting_ack' and due_at is null and test = 0;
create index open_delivery_urgent on open_delivery (partner, seq, round) where priority = 1 and test = 0;

-- What Ops were told, and that it got there: begun and over. The newest 10,000 are kept.
create table telling (
    number integer primary key,
    at integer not null,
    partner integer not null,
    cause text not null check (length(cause) between 1 and 32),
    target text not null check (length(target) between 1 and 64),
    is_end integer not null check (is_end in (0, 1)),
    urgent integer not null check (urgent in (0, 1))
) strict;
