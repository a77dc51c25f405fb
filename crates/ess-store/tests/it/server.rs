//! No server: the embedded database.

pub(crate) fn database() -> Option<String> {
    None
}

pub(crate) fn execute(url: &str, _: &str) -> usize {
    unreachable!("{url}: the embedded database has no server")
}

pub(crate) fn cut(url: &str) {
    unreachable!("{url}: the embedded database has no server")
}
