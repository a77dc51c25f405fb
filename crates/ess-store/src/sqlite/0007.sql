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
