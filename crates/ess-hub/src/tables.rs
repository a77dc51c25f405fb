//! Lookup tables: add, list, remove. Every evaluation process holds them all.

use std::sync::Arc;

use ess_core::access::Principal;
use ess_core::limits::TABLES_BYTES_MAX;
use ess_core::problem::{Code, Problem};
use ess_core::table::Table;
use ess_store::RuleKind;

use crate::hub::Hub;
use crate::publish::unavailable;
use crate::rules::{self, Rules};

impl Hub {
    /// Adds a table, or puts it in the place of one of its name. False when it was the same already.
    ///
    /// # Errors
    /// One with other content is there and `replace` is not set, or all of them together would be too large.
    pub async fn add_table(
        &self,
        table: Table,
        replace: bool,
        reason: Option<String>,
        by: &Principal,
    ) -> Result<bool, Problem> {
        let _changing = self.begin_change().await?;
        let snapshot = self.delivery.registry.snapshot();
        match snapshot.rules.tables.iter().find(|known| known.name == table.name) {
            Some(known) if **known == table => return Ok(false),
            Some(_) if !replace => return Err(rules::is_there_already("table", &table.name)),
            _ => {}
        }
        let others = snapshot.rules.tables.iter().filter(|known| known.name != table.name);
        let mut tables: Vec<Arc<Table>> = others.cloned().collect();
        let bytes: usize = tables.iter().map(|table| table.text.len()).sum::<usize>() + table.text.len();
        if bytes > TABLES_BYTES_MAX {
            let detail = format!("all tables together have {bytes} bytes, {TABLES_BYTES_MAX} at most are kept");
            return Err(Problem::new(Code::TooLarge, detail).with_hint("remove one that no script names"));
        }
        let audit = self.audit(by, "table.add", &table.name, reason);
        let stored =
            self.delivery.store.put_rule(RuleKind::Table, table.name.clone(), rules::write_table(&table), audit);
        stored.await.map_err(|error| unavailable(&error))?;
        tables.push(Arc::new(table));
        tables.sort_by(|a, b| a.name.cmp(&b.name));
        self.swap_tables(tables);
        Ok(true)
    }

    /// All tables, by name.
    #[must_use]
    pub fn tables(&self) -> Vec<Arc<Table>> {
        self.delivery.registry.snapshot().rules.tables.clone()
    }

    /// Removes a table.
    ///
    /// # Errors
    /// There is none of this name.
    pub async fn remove_table(&self, name: &str, reason: Option<String>, by: &Principal) -> Result<(), Problem> {
        let _changing = self.begin_change().await?;
        let snapshot = self.delivery.registry.snapshot();
        if !snapshot.rules.tables.iter().any(|known| known.name == name) {
            return Err(rules::is_not_there("table", name));
        }
        let audit = self.audit(by, "table.remove", name, reason);
        let removed = self.delivery.store.remove_rule(RuleKind::Table, name.to_owned(), audit);
        removed.await.map_err(|error| unavailable(&error))?;
        self.swap_tables(snapshot.rules.tables.iter().filter(|known| known.name != name).cloned().collect());
        Ok(())
    }

    fn swap_tables(&self, tables: Vec<Arc<Table>>) {
        // Before the rules: what is converted by the new generation sees the new tables.
        self.delivery.workshop.scripts.set_tables(tables.clone());
        let snapshot = self.delivery.registry.snapshot();
        self.swap_rules(Rules { tables, ..(*snapshot.rules).clone() });
    }
}
