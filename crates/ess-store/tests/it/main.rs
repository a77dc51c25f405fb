//! What the store promises, asked through its public face alone: another engine runs the same sentences.

mod browsing;
mod delivering;
mod lanes;
mod lasting;
mod publishing;
mod retention;
mod support;
mod trouble;
