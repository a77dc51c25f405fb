-- No ACK of the partner's first sendings lies past `reached`: what a lane that starts has to look through is (cursor, reached],
-- and for a partner that is dead that is next to nothing, however long its backlog.
alter table lane add column reached integer not null default 0;
update lane set reached = (select coalesce(max(seq), 0) from event);

-- Dead letters of one partner, without a walk through those of the others.
create index ended_delivery_partner on ended_delivery (partner, seq, round) where state in ('dead', 'nack') and test = 0;
