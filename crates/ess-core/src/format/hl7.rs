//! HL7 v2 in its ER7 encoding: a list of segments, fields by number, MSH filled in where it is not given.
//!
//! Source: HL7 version 2.5.1, chapter 2, sections 2.5 (segments, fields, components), 2.7 (escape sequences) and 2.14.9 (MSH).
//! The delimiters are the recommended ones, `|^~\&`.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::FormatError;
use super::tree::{Place, check_size, scalar, text};
use crate::event::Event;
use crate::json::Node;
use crate::time::Time;

const DELIMITERS: &str = "^~\\&";
const SEGMENTS: &str =
    "must be a list of segments such as [{\"segment\": \"NTE\", \"3\": \"text\"}]: let an adapter make one";
const FLAT: &str = "an HL7 field has components (a list) and these have subcomponents (a list in it), no more";
/// The highest number of a field, component or subcomponent.
const NUMBER_MAX: usize = 999;
/// Length of MSH-10 in HL7 2.5.1.
const CONTROL_ID_CHARS: usize = 20;

/// A field: repetitions of components of subcomponents, all escaped.
type Field = Vec<Vec<Vec<String>>>;

/// The message, each segment ended by a carriage return.
pub(super) fn write(value: &Node<'_>, event: &Event) -> Result<String, FormatError> {
    let root = Place::Root;
    let Node::List(segments) = value else { return Err(root.error(SEGMENTS)) };
    let mut read = Vec::with_capacity(segments.len() + 1);
    for (index, segment) in segments.iter().enumerate() {
        let place = Place::Item(&root, index);
        let (name, fields) = read_segment(segment, &place)?;
        if name == "MSH" && index > 0 {
            return Err(place.error("is MSH, which is the first segment only"));
        }
        read.push((name, fields));
    }
    if read.is_empty() {
        return Err(root.error(SEGMENTS));
    }
    if read[0].0 != "MSH" {
        read.insert(0, ("MSH", BTreeMap::new()));
    }
    let has_foreign_text =
        read.iter().any(|(_, fields)| fields.values().flatten().flatten().flatten().any(|part| !part.is_ascii()));
    fill_in(&mut read[0].1, event, has_foreign_text)?;
    let mut out = String::new();
    for (name, fields) in &read {
        write_segment(name, fields, &mut out);
        check_size(&out)?;
    }
    Ok(out)
}

fn read_segment<'a>(
    segment: &'a Node<'_>,
    place: &Place<'_>,
) -> Result<(&'a str, BTreeMap<usize, Field>), FormatError> {
    let Node::Map(entries) = segment else { return Err(place.error(SEGMENTS)) };
    let mut name = None;
    let mut fields: BTreeMap<usize, Field> = BTreeMap::new();
    for (key, value) in entries {
        let key = text(key, place)?;
        let place = Place::Field(place, key);
        if key == "segment" {
            let Node::Text(word) = value else { return Err(place.error("is a segment's name, such as NTE")) };
            name = Some(text(word, &place)?);
            continue;
        }
        let numbers = numbers(key).ok_or_else(|| {
            place.error(format_args!("is no field: write a number from 1 to {NUMBER_MAX}, or 3.2 for a component"))
        })?;
        let field = fields.entry(numbers[0]).or_default();
        match numbers[1..] {
            [] => *field = repetitions(value, &place)?,
            [component] => *slot(slot(field, 1), component) = components_of_one(value, &place)?,
            [component, part] => {
                *slot(slot(slot(field, 1), component), part) = escaped(&scalar(value, &place, FLAT)?);
            }
            _ => return Err(place.error(FLAT)),
        }
    }
    let name = name.ok_or_else(|| place.error("has no field \"segment\""))?;
    let is_name = name.len() == 3
        && name.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit())
        && name.as_bytes()[0].is_ascii_uppercase();
    if !is_name {
        return Err(place.error(format_args!("is of segment {name}, but a name is three capital letters or digits")));
    }
    Ok((name, fields))
}

/// `3`, `3.2` or `3.2.1`.
fn numbers(key: &str) -> Option<Vec<usize>> {
    let read = |word: &str| word.parse::<usize>().ok().filter(|number| (1..=NUMBER_MAX).contains(number));
    let numbers: Option<Vec<usize>> = key.split('.').map(read).collect();
    numbers.filter(|numbers| numbers.len() <= 3)
}

/// The place of this number in a list, from 1; what is missing before it is empty.
fn slot<T: Default + Clone>(list: &mut Vec<T>, number: usize) -> &mut T {
    if list.len() < number {
        list.resize(number, T::default());
    }
    &mut list[number - 1]
}

/// A field: `{"~": [...]}` repeats, anything else is one repetition.
fn repetitions(value: &Node<'_>, place: &Place<'_>) -> Result<Field, FormatError> {
    let Node::Map(entries) = value else { return Ok(vec![components(value, place)?]) };
    match entries.as_slice() {
        [(key, Node::List(items))] if text(key, place)? == "~" => {
            items.iter().enumerate().map(|(index, item)| components(item, &Place::Item(place, index))).collect()
        }
        _ => Err(place.error("is a map; a field that repeats is {\"~\": [first, second]}")),
    }
}

fn components(value: &Node<'_>, place: &Place<'_>) -> Result<Vec<Vec<String>>, FormatError> {
    match value {
        Node::List(items) => {
            items.iter().enumerate().map(|(index, item)| components_of_one(item, &Place::Item(place, index))).collect()
        }
        _ => Ok(vec![components_of_one(value, place)?]),
    }
}

/// The subcomponents of one component.
fn components_of_one(value: &Node<'_>, place: &Place<'_>) -> Result<Vec<String>, FormatError> {
    match value {
        Node::List(items) => items
            .iter()
            .enumerate()
            .map(|(index, item)| Ok(escaped(&scalar(item, &Place::Item(place, index), FLAT)?)))
            .collect(),
        // HL7 table 0136.
        Node::Word("true") => Ok(vec!["Y".to_owned()]),
        Node::Word("false") => Ok(vec!["N".to_owned()]),
        _ => Ok(vec![escaped(&scalar(value, place, FLAT)?)]),
    }
}

/// Delimiters and control characters as escape sequences.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '|' => out.push_str("\\F\\"),
            '^' => out.push_str("\\S\\"),
            '&' => out.push_str("\\T\\"),
            '~' => out.push_str("\\R\\"),
            '\\' => out.push_str("\\E\\"),
            '\0'..'\u{20}' | '\u{7F}' => out.push_str(&format!("\\X{:02X}\\", u32::from(character))),
            _ => out.push(character),
        }
    }
    out
}

/// What MSH lacks. MSH-11 says whether it is a dry run, whatever was given.
fn fill_in(msh: &mut BTreeMap<usize, Field>, event: &Event, has_foreign_text: bool) -> Result<(), FormatError> {
    for (number, expected) in [(1, escaped("|")), (2, escaped(DELIMITERS))] {
        if msh.remove(&number).is_some_and(|given| given != one(&[&expected])) {
            return Err(FormatError(format!("MSH-{number} is not yours to choose: the delimiters are |{DELIMITERS}")));
        }
    }
    let id = event.message_uuid.simple().to_string().to_uppercase();
    let control_id = &id[id.len() - CONTROL_ID_CHARS..];
    // Without it no acknowledgement could name the message.
    if msh.get(&10).is_some_and(|given| given.iter().flatten().flatten().all(String::is_empty)) {
        msh.remove(&10);
    }
    let mut default = |number: usize, components: &[&str]| {
        msh.entry(number).or_insert_with(|| one(components));
    };
    default(3, &["HMS-ESS"]);
    default(7, &[&date_time(event.recorded_at)]);
    default(9, &["ZHM", "Z01", "ZHM_Z01"]);
    default(10, &[control_id]);
    default(12, &["2.5.1"]);
    if has_foreign_text {
        default(18, &["UNICODE UTF-8"]);
    }
    if event.content.test {
        msh.insert(11, one(&["T"]));
    } else {
        msh.entry(11).or_insert_with(|| one(&["P"]));
    }
    Ok(())
}

fn one(components: &[&str]) -> Field {
    vec![components.iter().map(|component| vec![(*component).to_owned()]).collect()]
}

/// DTM, in UTC.
fn date_time(time: Time) -> String {
    let timestamp = Timestamp::from_microsecond(time.as_micros()).unwrap_or(Timestamp::UNIX_EPOCH);
    timestamp.strftime("%Y%m%d%H%M%S.%3f+0000").to_string()
}

fn write_segment(name: &str, fields: &BTreeMap<usize, Field>, out: &mut String) {
    out.push_str(name);
    let mut written = 0;
    if name == "MSH" {
        // MSH-1 is the delimiter itself.
        out.push('|');
        out.push_str(DELIMITERS);
        written = 2;
    }
    for (number, field) in fields {
        while written < *number {
            out.push('|');
            written += 1;
        }
        let repetitions: Vec<String> = field.iter().map(|components| join(components)).collect();
        out.push_str(repetitions.join("~").trim_end_matches('~'));
    }
    while out.ends_with('|') {
        out.pop();
    }
    out.push('\r');
}

fn join(components: &[Vec<String>]) -> String {
    let components: Vec<String> =
        components.iter().map(|parts| parts.join("&").trim_end_matches('&').to_owned()).collect();
    components.join("^").trim_end_matches('^').to_owned()
}
