//! Bridges, schemas and lookup tables: by what payloads are turned and judged, as one set that is swapped whole.

use std::sync::Arc;

use ess_core::bridge::{Bridge, Bridges};
use ess_core::id::{Digest, Version};
use ess_core::partner::Glob;
use ess_core::problem::{Code, Problem};
use ess_core::schema::{Schema, Schemas};
use ess_core::table::Table;
use ess_store::StoredRules;
use serde::{Deserialize, Serialize};

use crate::bridges;
use crate::hub::Hub;
use crate::lanes::Input;

/// The rules at one moment.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// The ways between versions.
    pub bridges: Bridges,
    /// What payloads look like.
    pub schemas: Schemas,
    /// What scripts look up, by name.
    pub tables: Vec<Arc<Table>>,
    /// Counts changes, so that what older rules made is not taken for the newer ones'.
    pub generation: u64,
}

/// A schema as it is stored.
#[derive(Serialize, Deserialize)]
struct SchemaDocument {
    subject: String,
    version: u32,
    schema: String,
}

/// A lookup table as it is stored.
#[derive(Serialize, Deserialize)]
struct TableDocument {
    name: String,
    value: String,
}

impl Rules {
    /// Reads stored rules.
    ///
    /// # Errors
    /// One of them is damaged.
    pub fn read(stored: &StoredRules) -> Result<Self, String> {
        let bridge = |document: &String| match bridges::read(document) {
            Ok(bridge) => Ok(Arc::new(bridge)),
            Err(error) => Err(format!("bridge: {error}")),
        };
        let bridges: Vec<Arc<Bridge>> = stored.bridges.iter().map(bridge).collect::<Result<_, _>>()?;
        let schemas: Vec<Arc<Schema>> =
            stored.schemas.iter().map(|text| read_schema(text)).collect::<Result<_, _>>()?;
        let tables = stored.tables.iter().map(|text| read_table(text)).collect::<Result<_, _>>()?;
        Ok(Self { bridges: Bridges::new(bridges), schemas: Schemas::new(schemas), tables, generation: 0 })
    }

    /// The lookup tables that a script names: what it made is theirs, too.
    pub fn looked_up(&self, script: &str) -> impl Iterator<Item = Digest> {
        self.tables.iter().filter(move |table| table.is_named_in(script)).map(|table| table.digest)
    }
}

fn read_schema(document: &str) -> Result<Arc<Schema>, String> {
    let damaged = |why: String| format!("schema: {why}");
    let document: SchemaDocument = serde_json::from_str(document).map_err(|error| damaged(error.to_string()))?;
    let subject = Glob::parse(&document.subject).map_err(damaged)?;
    let schema = Schema::new(subject, Version(document.version), &document.schema);
    schema.map(Arc::new).map_err(|problem| damaged(problem.detail))
}

fn read_table(document: &str) -> Result<Arc<Table>, String> {
    let document: TableDocument = serde_json::from_str(document).map_err(|error| format!("table: {error}"))?;
    let table = Table::new(&document.name, &document.value);
    table.map(Arc::new).map_err(|problem| format!("table {}: {}", document.name, problem.detail))
}

/// A schema's stored document.
pub(crate) fn write_schema(schema: &Schema) -> String {
    let document = SchemaDocument {
        subject: schema.subject.as_str().to_owned(),
        version: schema.version.0,
        schema: schema.text.to_string(),
    };
    // Invariant: strings and numbers always serialise.
    serde_json::to_string(&document).expect("a schema serialises")
}

/// A table's stored document.
pub(crate) fn write_table(table: &Table) -> String {
    let document = TableDocument { name: table.name.clone(), value: table.text.to_string() };
    // Invariant: strings always serialise.
    serde_json::to_string(&document).expect("a table serialises")
}

/// The problem of a rule that is there with other content, and may not be replaced unasked.
pub(crate) fn is_there_already(what: &str, id: &str) -> Problem {
    Problem::new(Code::Conflict, format!("{what} {id} is there already with other content"))
        .with_hint("add it with --replace (?replace=true)")
}

/// The problem of a rule that is not there.
pub(crate) fn is_not_there(what: &str, id: &str) -> Problem {
    Problem::new(Code::NotFound, format!("there is no {what} {id}"))
        .with_hint(format!("`hms-ess {what} list` shows what there is"))
}

impl Hub {
    /// The next rules; what was blocked is tried again.
    pub(crate) fn swap_rules(&self, rules: Rules) {
        self.delivery.registry.set_rules(rules);
        self.delivery.cells.forget_conversions();
        self.lanes.tell(Input::UnblockAll);
    }
}
