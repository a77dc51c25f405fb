//! A partner as a YAML file: read into the document that the API takes, with errors that name file, line and field.

use serde_json::Value;

use crate::limits::PARTNER_FILE_BYTES_MAX;
use crate::partner::Partner;
use crate::problem::{Code, Problem};

/// A partner's file, read.
#[derive(Debug, Clone)]
pub struct PartnerFile {
    /// The document; the adapter may still be a path.
    pub document: Value,
    /// The adapter's file, relative to the partner's file.
    pub adapter_path: Option<String>,
    name: String,
    text: String,
}

impl PartnerFile {
    /// Reads YAML. `name` is the file's name as the user gave it.
    ///
    /// # Errors
    /// Not YAML, or not a map at its top; with file, line and column.
    pub fn parse(text: &str, name: &str) -> Result<Self, Problem> {
        if text.len() > PARTNER_FILE_BYTES_MAX {
            return Err(Problem::new(Code::TooLarge, format!("{name}: over {PARTNER_FILE_BYTES_MAX} bytes")));
        }
        let document: Value = serde_saphyr::from_str(text).map_err(|error| yaml_problem(&error, name))?;
        if !document.is_object() {
            let detail = format!("{name}:1: expected a map with id, url, accepts_version and channel");
            return Err(Problem::new(Code::Malformed, detail).with_position(1, 1));
        }
        let adapter_path = document
            .get("adapter")
            .and_then(Value::as_str)
            .filter(|adapter| !adapter.contains('\n') && adapter.ends_with(".jsonata"))
            .map(str::to_owned);
        Ok(Self { document, adapter_path, name: name.to_owned(), text: text.to_owned() })
    }

    /// Puts the adapter's text in the place of its path.
    pub fn set_adapter(&mut self, script: &str) {
        self.document["adapter"] = Value::String(script.to_owned());
    }

    /// Checks the document as the hub will.
    ///
    /// # Errors
    /// A field that is missing, unknown or out of bounds, with file and line.
    pub fn check(&self) -> Result<Partner, Problem> {
        Partner::from_json(&self.document).map_err(|problem| self.locate(problem))
    }

    /// Adds file, line and column to a problem that names a field of this document.
    #[must_use]
    pub fn locate(&self, mut problem: Problem) -> Problem {
        let Some(field) = problem.field.clone() else { return problem };
        let (line, column) = self.position_of(&field).unwrap_or((1, 1));
        problem.detail = format!("{}:{line}: {}", self.name, problem.detail);
        problem.with_position(line, column)
    }

    /// Where a field stands: each name of its path is looked for after the one before it.
    fn position_of(&self, field: &str) -> Option<(u32, u32)> {
        let lines: Vec<&str> = self.text.lines().collect();
        let mut at: Option<(usize, usize)> = None;
        for name in field.split('.') {
            let (from, skip) = at.unwrap_or((0, 0));
            let found = (from..lines.len()).find_map(|index| {
                let skipped = if index == from { skip } else { 0 };
                let column = key_column(lines[index].get(skipped..)?, name)?;
                Some((index, skipped + column))
            });
            at = found.or(at);
        }
        let (line, column) = at?;
        Some((u32::try_from(line + 1).ok()?, u32::try_from(column + 1).ok()?))
    }
}

/// Where `name` stands as a key in this line.
fn key_column(line: &str, name: &str) -> Option<usize> {
    line.match_indices(name).map(|(at, _)| at).find(|at| {
        let before = line[..*at].trim_end_matches(['"', '\'']).chars().next_back();
        let after = line[at + name.len()..].trim_start_matches(['"', '\'']).trim_start();
        before.is_none_or(|c| c.is_whitespace() || matches!(c, '{' | ',')) && after.starts_with(':')
    })
}

/// What the YAML reader says, with its place.
#[must_use]
pub fn yaml_problem(error: &serde_saphyr::Error, name: &str) -> Problem {
    let said = error.to_string();
    let said = said.lines().next().unwrap_or("not YAML").trim().to_owned();
    match error.location() {
        Some(location) => {
            let (line, column) = (location.line(), location.column());
            let (line, column) = (u32::try_from(line).unwrap_or(1), u32::try_from(column).unwrap_or(1));
            Problem::new(Code::Malformed, format!("{name}:{line}: {said}")).with_position(line, column)
        }
        None => Problem::new(Code::Malformed, format!("{name}: {said}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MISSION: &str = "# partners/court-saas.yaml\nid: COURT-CAL\nurl: https://api.courtcal.com/update\naccepts_version: 1        # hub auto-converts\nchannel: webhook\n";

    #[test]
    fn the_missions_file_is_a_partner() {
        let partner = PartnerFile::parse(MISSION, "partners/court-saas.yaml").unwrap().check().unwrap();
        assert_eq!(partner.id.as_str(), "COURT-CAL");
    }

    #[test]
    fn an_error_names_file_line_and_field() {
        let text = MISSION.replace("accepts_version: 1 ", "accepts_version: one");
        let problem = PartnerFile::parse(&text, "p.yaml").unwrap().check().unwrap_err();
        assert!(problem.detail.starts_with("p.yaml:4: accepts_version must be an integer"), "{}", problem.detail);
        let text = format!("{MISSION}retry:\n  first: 5s\n  factr: 2\n");
        let problem = PartnerFile::parse(&text, "p.yaml").unwrap().check().unwrap_err();
        assert_eq!(problem.detail, "p.yaml:8: retry.factr: unknown field");
        assert_eq!(problem.hint.as_deref(), Some("did you mean `factor`?"));
        let problem = PartnerFile::parse("id: [1, 2\nurl: x", "p.yaml").unwrap_err();
        assert!(problem.detail.starts_with("p.yaml:"), "{}", problem.detail);
        assert!(problem.position.is_some());
    }

    #[test]
    fn an_adapter_is_a_path_or_a_script() {
        let file = PartnerFile::parse(&format!("{MISSION}adapter: adapters/a.jsonata\n"), "p.yaml").unwrap();
        assert_eq!(file.adapter_path.as_deref(), Some("adapters/a.jsonata"));
        let file = PartnerFile::parse(&format!("{MISSION}adapter: |\n  payload\n"), "p.yaml").unwrap();
        assert_eq!(file.adapter_path, None);
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_an_error_or_a_file(text in "[ -~\n]{0,200}") {
            if let Ok(file) = PartnerFile::parse(&text, "p.yaml") {
                let _ = file.check();
            }
        }
    }
}
