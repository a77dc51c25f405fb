//! The same sentences as of the embedded database, of a PostgreSQL server that the tests start, and what a server adds to them.

#[path = "../it/browsing.rs"]
mod browsing;
#[path = "../it/delivering.rs"]
mod delivering;
mod faults;
#[path = "../it/lanes.rs"]
mod lanes;
#[path = "../it/lasting.rs"]
mod lasting;
mod nodes;
mod proxy;
#[path = "../it/publishing.rs"]
mod publishing;
#[path = "../it/retention.rs"]
mod retention;
mod server;
mod sessions;
#[path = "../it/support.rs"]
mod support;
#[path = "../it/trouble.rs"]
mod trouble;
