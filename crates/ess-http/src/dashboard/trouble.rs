//! Refusals as pages: the same problem as in the API, for a person.

use askama::Template;
use axum::http::HeaderMap;
use axum::http::header::RETRY_AFTER;
use axum::response::Response;
use ess_core::problem::{Code, Problem};

use super::frame::{bare, render};
use super::visitor::Theme;
use crate::refusal::{self, Refusal};

/// Below this path refusals are pages.
pub(crate) const ROOT: &str = "/dashboard";

#[derive(Template)]
#[template(path = "dashboard/trouble.html")]
struct Trouble<'a> {
    title: &'a str,
    detail: &'a str,
    hint: Option<&'a str>,
    field: Option<&'a str>,
    position: Option<(u32, u32)>,
    code: &'a str,
    request_id: &'a str,
    back: &'a str,
}

/// The page of a refusal; `None` when it can't be made.
pub(crate) fn page(problem: &Problem, request_id: &str, path: &str, headers: &HeaderMap) -> Option<Response> {
    let back = if problem.code == Code::NotFound { ROOT } else { page_of(path) };
    let trouble = Trouble {
        title: problem.code.title(),
        detail: &problem.detail,
        hint: problem.hint.as_deref(),
        field: problem.field.as_deref(),
        position: problem.position,
        code: problem.code.word(),
        request_id,
        back,
    };
    let text = render(&trouble).ok()?;
    let mut response =
        bare(refusal::status(problem.code), Theme::of(headers), problem.code.title(), back, &text).ok()?;
    // A temporary refusal says when to come back, here as in the API.
    let plain = refusal::render(problem, request_id, None);
    for name in [RETRY_AFTER, axum::http::header::CONNECTION] {
        if let Some(value) = plain.headers().get(&name) {
            response.headers_mut().insert(name, value.clone());
        }
    }
    Some(response)
}

/// Whatever else is asked for below the dashboard.
pub(crate) async fn refuse_path() -> Refusal {
    Refusal(Problem::new(Code::NotFound, "there is no such page").with_hint("the overview leads to every page"))
}

/// An act's path is its page's path and one word more.
fn page_of(path: &str) -> &str {
    match path.rsplit_once('/') {
        Some((page, _)) if page.len() > ROOT.len() => page,
        _ => ROOT,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_act_leads_back_to_its_page() {
        assert_eq!(page_of("/dashboard/partners/COURT-CAL/pause"), "/dashboard/partners/COURT-CAL");
        assert_eq!(page_of("/dashboard/theme"), "/dashboard");
        assert_eq!(page_of("/dashboard"), "/dashboard");
    }
}
