//! The real binary, run as a user runs it. Partners listen on loopback; every hub has a folder of its own.

mod apply;
mod command;
mod configuration;
mod demo;
mod exercise;
mod failover;
mod life;
mod partner;
mod program;
mod retention;
mod shape;
mod stop;
