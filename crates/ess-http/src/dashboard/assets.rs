//! The style, the script and the icon: files of our own, nothing else.

use axum::body::Body;
use axum::http::HeaderValue;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::Response;

use super::frame::protect;

const STYLE: &str = include_str!("../../templates/dashboard/style.css");
const SCRIPT: &str = include_str!("../../templates/dashboard/script.js");
const ICON: &str = include_str!("../../templates/dashboard/icon.svg");

/// The style.
pub(crate) async fn read_style() -> Response {
    asset("text/css; charset=utf-8", STYLE)
}

/// The script.
pub(crate) async fn read_script() -> Response {
    asset("text/javascript; charset=utf-8", SCRIPT)
}

/// The icon.
pub(crate) async fn read_icon() -> Response {
    asset("image/svg+xml", ICON)
}

fn asset(kind: &'static str, text: &'static str) -> Response {
    let mut response = Response::new(Body::from(text));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("max-age=60"));
    protect(headers);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_foreign_is_fetched_and_nothing_is_evaluated() {
        for foreign in ["@import", "url(", "http://", "https://"] {
            assert!(!STYLE.contains(foreign) && !SCRIPT.contains(foreign), "{foreign}");
        }
        for risky in ["eval(", "new Function", "document.write", "insertAdjacentHTML", ".style."] {
            assert!(!SCRIPT.contains(risky), "{risky}");
        }
    }
}
