//! A lane's memory does not grow with its backlog.

use super::{Fact, Scene};

/// A page of a line may come on top of a full window.
const PAGE: usize = 17;
/// Urgent deliveries that came ahead of a backlog: half a page, and a page more.
const AHEAD: usize = 96;

#[derive(Default)]
pub struct Memory;

impl Memory {
    pub fn see(&mut self, fact: &Fact<'_>, scene: &Scene<'_>) -> Result<(), String> {
        let loaded = scene.lane.loaded();
        if matches!(fact, Fact::Stepped) && loaded > scene.room + PAGE + AHEAD {
            return Err(format!("{loaded} deliveries are loaded, there is room for {}", scene.room));
        }
        Ok(())
    }
}
