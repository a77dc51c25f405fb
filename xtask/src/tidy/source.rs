//! Just enough of Rust's lexing to judge code apart from comments and texts: it blanks those and keeps every line.

/// The source with the content of comments, texts and characters replaced by spaces; lines stay where they are.
pub(super) fn blank(source: &str) -> String {
    let chars: Vec<char> = source.chars().collect();
    let mut out = String::with_capacity(source.len());
    let mut at = 0;
    while at < chars.len() {
        let end = skip(&chars, at);
        if end > at {
            out.extend(chars[at..end].iter().map(|&c| if c == '\n' { '\n' } else { ' ' }));
            at = end;
        } else {
            out.push(chars[at]);
            at += 1;
        }
    }
    out
}

/// Where the comment, text or character that begins at `at` ends; `at` itself when none begins there.
fn skip(chars: &[char], at: usize) -> usize {
    let next = chars.get(at + 1).copied();
    match (chars[at], next) {
        ('/', Some('/')) => line_end(chars, at),
        ('/', Some('*')) => block_end(chars, at),
        ('"', _) => text_end(chars, at + 1),
        ('r', Some('"' | '#')) if !follows_word(chars, at) => raw_end(chars, at),
        ('b', Some('r')) if !follows_word(chars, at) => match raw_end(chars, at + 1) {
            end if end > at + 1 => end,
            _ => at,
        },
        ('\'', _) => character_end(chars, at),
        _ => at,
    }
}

fn follows_word(chars: &[char], at: usize) -> bool {
    at > 0 && (chars[at - 1].is_alphanumeric() || chars[at - 1] == '_')
}

fn line_end(chars: &[char], at: usize) -> usize {
    chars[at..].iter().position(|&c| c == '\n').map_or(chars.len(), |length| at + length)
}

fn block_end(chars: &[char], mut at: usize) -> usize {
    let mut depth = 0;
    while at + 1 < chars.len() {
        match (chars[at], chars[at + 1]) {
            ('/', '*') => (depth, at) = (depth + 1, at + 2),
            ('*', '/') => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    chars.len()
}

fn text_end(chars: &[char], mut at: usize) -> usize {
    while at < chars.len() {
        match chars[at] {
            '\\' => at += 2,
            '"' => return at + 1,
            _ => at += 1,
        }
    }
    chars.len()
}

fn raw_end(chars: &[char], at: usize) -> usize {
    let hashes = chars[at + 1..].iter().take_while(|&&c| c == '#').count();
    if chars.get(at + 1 + hashes) != Some(&'"') {
        return at;
    }
    let mut end = at + 2 + hashes;
    while end < chars.len() {
        let is_closed =
            chars[end] == '"' && chars[end + 1..].iter().take(hashes).filter(|&&c| c == '#').count() == hashes;
        if is_closed {
            return end + 1 + hashes;
        }
        end += 1;
    }
    chars.len()
}

fn character_end(chars: &[char], at: usize) -> usize {
    // `'a'` and `'\n'` are characters, `'a` is a lifetime.
    if chars.get(at + 1) == Some(&'\\') {
        let close = chars.iter().skip(at + 3).position(|&c| c == '\'');
        return close.map_or(chars.len(), |length| at + 3 + length + 1);
    }
    if chars.get(at + 2) == Some(&'\'') { at + 3 } else { at }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(source: &str, expected: &str) {
        assert_eq!(blank(source).split_whitespace().collect::<Vec<_>>().join(" "), expected);
    }

    #[test]
    fn comments_texts_and_characters_are_blanked_and_lifetimes_are_not() {
        check("a // { b\nc /* { /* } */ */ d", "a c d");
        check(r#"f("{ \" {") + g"#, "f( ) + g");
        check("f(r#\"a \" {\"#, br\"{\", b\"{\") + g", "f( , , b ) + g");
        check("fn f<'a>(x: &'a str, y: char = '{', z: '\\'') {}", "fn f<'a>(x: &'a str, y: char = , z: ) {}");
        check("let r = for_r#loop;", "let r = for_r#loop;");
    }
}
