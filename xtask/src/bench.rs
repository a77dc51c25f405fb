//! The load generator's place; the measurements come with it.

/// Says that there is nothing to measure yet.
pub(crate) fn run(_args: &[String]) -> anyhow::Result<()> {
    anyhow::bail!("no scenario is written yet")
}
