//! The API, asked from outside over real sockets, against a real hub in a directory of its own.

mod access;
mod bulk;
mod dashboard;
mod hostile;
mod pages;
mod publish;
mod rounds;
mod rules;
mod search;
mod stop;
mod support;
