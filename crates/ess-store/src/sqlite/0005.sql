-- Partners that are given up, deliveries that their fallback channel took, and urgent events that overtake a backlog.
alter table lane add column gave_up_at integer;
create index lane_given_up on lane (partner) where gave_up_at is not null;
alter table open_delivery add column fallback_at integer;
create index event_urgent on event (seq) where priority = 1 or kind = 2;
