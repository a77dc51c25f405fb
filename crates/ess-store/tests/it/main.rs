//! What the store promises, asked through its public face alone, of the embedded database; `tests/postgres` asks a server the same.

mod browsing;
mod delivering;
mod files;
mod lanes;
mod lasting;
mod publishing;
mod retention;
mod server;
mod support;
mod trouble;
