//! Every route of the hub, grouped by caller. Nothing else decides what the hub answers to.

use std::sync::Arc;

use axum::Router;
use axum::handler::Handler;
use axum::http::Method;
use axum::routing::{MethodFilter, on};
use ess_core::problem::{Code, Problem};

use crate::ack_page;
use crate::api::{
    acks, audit, backup, bounces, bridges, dead_letters, deliveries, drills, escalations, events, health, holds, inbox,
    keys, lanes, ledger, ledger_export, nodes, packet, partner_events, partners, publish, schemas, stream, tables,
    targets, tokens,
};
use crate::dashboard::{
    assets, audit as audit_page, bridges as bridges_page, dead_letters as dead_letters_page,
    escalations as escalations_page, event, events as events_page, holds as holds_page, ledger as ledger_page, live,
    nodes as nodes_page, overview, partner, partner_acts, partners as partners_page, sign_in, trouble,
};
use crate::docs;
use crate::refusal::Refusal;
use crate::site::Site;

/// Routes as they are laid, and the list of them.
#[derive(Default)]
pub(crate) struct Routes {
    router: Router<Arc<Site>>,
    pub(crate) laid: Vec<(Method, &'static str)>,
    /// Pages for people and their acts: no part of the API.
    pub(crate) pages: Vec<(Method, &'static str)>,
}

/// Paths that need no token.
pub(crate) const OPEN: [&str; 7] =
    ["/", "/healthz", "/readyz", "/openapi.json", "/docs", "/docs/style.css", "/v1/keys"];

/// All of them.
#[rustfmt::skip]
pub(crate) fn routes() -> Routes {
    Routes::default()
        // Anybody.
        .get("/healthz", health::read_health)
        .get("/readyz", health::read_readiness)
        .get("/openapi.json", docs::read_openapi)
        .get("/", sign_in::go_home)
        .get("/docs", docs::read_docs)
        .get("/docs/style.css", docs::read_style)
        .get("/v1/keys", keys::list_keys)
        // Publishers.
        .post("/v1/events", publish::publish_event)
        .get("/v1/events", events::list_events)
        .get("/v1/events/{id}", events::read_event)
        .get("/v1/events/{id}/status", events::read_event_status)
        .get("/v1/events/{id}/deliveries", events::list_event_deliveries)
        // Partners.
        .post("/v1/acks", acks::acknowledge)
        .post("/v1/bounces", bounces::take_bounce)
        .get("/v1/partners/{id}", partners::read_one)
        .get("/v1/partners/{id}/inbox", inbox::read_inbox)
        .get("/v1/partners/{id}/events", partner_events::list_partner_events)
        .get("/v1/partners/{id}/deliveries", partner_events::list_partner_deliveries)
        // Auditors.
        .get("/v1/partners", partners::list_partners)
        .get("/v1/bridges", bridges::list_bridges)
        .get("/v1/schemas", schemas::list_schemas)
        .get("/v1/tables", tables::list_tables)
        .get("/v1/dead-letters", dead_letters::list_dead_letters)
        .get("/v1/unacked", deliveries::list_unacked)
        .get("/v1/lanes", lanes::list_lanes)
        .get("/v1/escalations", escalations::list_escalations)
        .get("/v1/targets", targets::list_targets)
        .get("/v1/nodes", nodes::list_nodes)
        .get("/v1/ledger", ledger::list_ledger)
        .get("/v1/ledger/checkpoint", ledger::read_checkpoint)
        .post("/v1/ledger/checkpoint", ledger::make_checkpoint)
        .get("/v1/ledger/proof", ledger::prove_receipt)
        .get("/v1/ledger/consistency", ledger::prove_consistency)
        .get("/v1/ledger/export", ledger_export::export_ledger)
        .post("/v1/ledger/verify", ledger::verify_ledger)
        .get("/v1/events/{id}/audit", packet::read_packet)
        .get("/v1/audit", audit::list_audit)
        .get("/v1/holds", holds::list_holds)
        .get("/v1/stream", stream::follow_stream)
        .laid_for_operators()
}

/// The dashboard: pages, and the acts that are sent from them. All but the first group need a session.
#[rustfmt::skip]
fn dashboard(routes: Routes) -> Routes {
    routes
        // Anybody.
        .page("/dashboard/style.css", assets::read_style)
        .page("/dashboard/script.js", assets::read_script)
        .page("/dashboard/icon.svg", assets::read_icon)
        .page("/dashboard/sign-in", sign_in::read_sign_in)
        .act("/dashboard/sign-in", sign_in::sign_in)
        .act("/dashboard/theme", sign_in::set_theme)
        // Whoever is signed in.
        .act("/dashboard/sign-out", sign_in::sign_out)
        .page("/dashboard/live", live::follow_changes)
        .page("/dashboard", overview::read_overview)
        // Publishers.
        .page("/dashboard/events", events_page::list_events)
        .page("/dashboard/events/{id}", event::read_event)
        .act("/dashboard/events/{id}/retract", event::retract)
        // Partners.
        .page("/dashboard/partners/{id}", partner::read_partner)
        .page("/dashboard/partners/{id}/sent", partner::read_sent)
        .act("/dashboard/partners/{id}/test", partner_acts::test)
        .act("/dashboard/partners/{id}/rotate-secret", partner_acts::rotate_secret)
        .act("/dashboard/partners/{id}/redrive", partner_acts::redrive)
        .act("/dashboard/partners/{id}/resend", partner_acts::resend)
        // Auditors.
        .page("/dashboard/events/{id}/proof", event::read_proof)
        .page("/dashboard/events/{id}/packet", event::read_packet)
        .page("/dashboard/partners", partners_page::list_partners)
        .page("/dashboard/bridges", bridges_page::list_bridges)
        .page("/dashboard/dead-letters", dead_letters_page::list_dead_letters)
        .page("/dashboard/escalations", escalations_page::list_escalations)
        .page("/dashboard/ledger", ledger_page::list_ledger)
        .act("/dashboard/ledger/verify", ledger_page::verify)
        .act("/dashboard/ledger/checkpoint", ledger_page::make_checkpoint)
        .page("/dashboard/holds", holds_page::list_holds)
        .page("/dashboard/audit", audit_page::list_audit)
        .page("/dashboard/nodes", nodes_page::list_nodes)
        // Operators.
        .act("/dashboard/events/{id}/replay", event::replay)
        .act("/dashboard/partners/{id}/pause", partner_acts::pause)
        .act("/dashboard/partners/{id}/resume", partner_acts::resume)
        .act("/dashboard/bridges/try", bridges_page::try_bridge)
        .act("/dashboard/escalations/test", escalations_page::test)
        .act("/dashboard/holds/place", holds_page::place)
        .act("/dashboard/holds/lift", holds_page::lift)
        .act("/dashboard/dead-letters/redrive", dead_letters_page::redrive)
        .act("/dashboard/dead-letters/discard", dead_letters_page::discard)
        .page("/dashboard/{*rest}", trouble::refuse_path)
}

/// The page behind the link in a mail: whoever has the link is let in.
fn links(routes: Routes) -> Routes {
    routes.page("/ack/{token}", ack_page::read_ack_link).act("/ack/{token}", ack_page::answer_ack_link)
}

/// The router over them; whatever else is asked for is a problem, too.
pub(crate) fn router() -> Router<Arc<Site>> {
    links(dashboard(routes())).router.method_not_allowed_fallback(refuse_method).fallback(refuse_path)
}

impl Routes {
    /// What changes the hub and what it sends: operators, and admins for what is theirs alone.
    #[rustfmt::skip]
    fn laid_for_operators(self) -> Self {
        self
        // Operators.
        .post("/v1/events/{id}/replay", events::replay_event)
        .post("/v1/partners", partners::add_partner)
        .put("/v1/partners/{id}", partners::set_partner)
        .delete("/v1/partners/{id}", partners::remove_partner)
        .post("/v1/partners/{id}/pause", partners::pause_partner)
        .post("/v1/partners/{id}/resume", partners::resume_partner)
        .post("/v1/partners/{id}/test", partners::test_partner)
        .post("/v1/partners/{id}/probe", drills::probe_partner)
        .post("/v1/drills", drills::begin_drill)
        .post("/v1/partners/{id}/rotate-secret", partners::rotate_secret)
        .post("/v1/bridges", bridges::add_bridge)
        .post("/v1/bridges/try", bridges::try_bridge)
        .post("/v1/bridges/test", bridges::test_bridges)
        .delete("/v1/bridges/{id}", bridges::remove_bridge)
        .post("/v1/schemas", schemas::add_schema)
        .delete("/v1/schemas/{id}", schemas::remove_schema)
        .post("/v1/tables", tables::add_table)
        .delete("/v1/tables/{id}", tables::remove_table)
        .post("/v1/holds", holds::place_hold)
        .post("/v1/dead-letters/redrive", dead_letters::redrive_dead_letters)
        .post("/v1/dead-letters/discard", dead_letters::discard_dead_letters)
        .post("/v1/targets/{name}/test", targets::test_target)
        // Admins.
        .post("/v1/tokens", tokens::create_token)
        .get("/v1/tokens", tokens::list_tokens)
        .delete("/v1/tokens/{id}", tokens::revoke_token)
        .post("/v1/backup", backup::back_up)
        .post("/v1/events/{id}/redact", events::redact_event)
        .delete("/v1/holds/{id}", holds::lift_hold)
    }

    fn get<H: Handler<T, Arc<Site>>, T: 'static>(self, path: &'static str, handler: H) -> Self {
        self.lay(Method::GET, MethodFilter::GET, path, handler)
    }

    fn post<H: Handler<T, Arc<Site>>, T: 'static>(self, path: &'static str, handler: H) -> Self {
        self.lay(Method::POST, MethodFilter::POST, path, handler)
    }

    fn put<H: Handler<T, Arc<Site>>, T: 'static>(self, path: &'static str, handler: H) -> Self {
        self.lay(Method::PUT, MethodFilter::PUT, path, handler)
    }

    fn delete<H: Handler<T, Arc<Site>>, T: 'static>(self, path: &'static str, handler: H) -> Self {
        self.lay(Method::DELETE, MethodFilter::DELETE, path, handler)
    }

    fn page<H: Handler<T, Arc<Site>>, T: 'static>(mut self, path: &'static str, handler: H) -> Self {
        self.router = self.router.route(path, on(MethodFilter::GET, handler));
        self.pages.push((Method::GET, path));
        self
    }

    fn act<H: Handler<T, Arc<Site>>, T: 'static>(mut self, path: &'static str, handler: H) -> Self {
        self.router = self.router.route(path, on(MethodFilter::POST, handler));
        self.pages.push((Method::POST, path));
        self
    }

    fn lay<H, T>(mut self, method: Method, filter: MethodFilter, path: &'static str, handler: H) -> Self
    where
        H: Handler<T, Arc<Site>>,
        T: 'static,
    {
        self.router = self.router.route(path, on(filter, handler));
        self.laid.push((method, path));
        self
    }
}

async fn refuse_path() -> Refusal {
    Refusal(Problem::new(Code::NotFound, "there is nothing at this path").with_hint("the API is described at /docs"))
}

async fn refuse_method() -> Refusal {
    let problem = Problem::new(Code::MethodNotAllowed, "this path does not know that method");
    Refusal(problem.with_hint("the Allow header names those it knows; the API is described at /docs"))
}
