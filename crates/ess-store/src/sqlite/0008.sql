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
