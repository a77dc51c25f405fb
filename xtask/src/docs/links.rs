//! Links of the built site: each that stays in it must lead to a file that is there, and to a place that the file has.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context as _, bail};

/// A page of the site: where it leads and what can be led to.
struct Page {
    targets: Vec<String>,
    places: BTreeSet<String>,
}

/// Checks every page; answers how many there are.
pub(crate) fn check(site: &Path) -> anyhow::Result<usize> {
    let mut pages = BTreeMap::new();
    read(site, Path::new(""), &mut pages)?;
    let mut dead = Vec::new();
    for (path, page) in &pages {
        for target in page.targets.iter().filter(|target| is_inner(target)) {
            if let Some(why) = fault(site, path, target, &pages) {
                dead.push(format!("{}: {target}: {why}", path.display()));
            }
        }
    }
    if !dead.is_empty() {
        bail!("{} links lead nowhere:\n  {}", dead.len(), dead.join("\n  "));
    }
    Ok(pages.len())
}

fn read(site: &Path, folder: &Path, pages: &mut BTreeMap<PathBuf, Page>) -> anyhow::Result<()> {
    let dir = site.join(folder);
    for entry in fs::read_dir(&dir).with_context(|| format!("could not read {}", dir.display()))? {
        let entry = entry.context("could not read a folder of the site")?;
        let path = folder.join(entry.file_name());
        if entry.path().is_dir() {
            read(site, &path, pages)?;
        } else if path.extension().is_some_and(|ending| ending == "html") && !path.ends_with("404.html") {
            let html =
                fs::read_to_string(entry.path()).with_context(|| format!("could not read {}", path.display()))?;
            // The table of contents without script is a frame of its own, whose links are those of the pages.
            let targets = [values(&html, "href"), values(&html, "src")].concat();
            pages.insert(path, Page { targets, places: values(&html, "id").into_iter().collect() });
        }
    }
    Ok(())
}

/// The values of an attribute.
fn values(html: &str, name: &str) -> Vec<String> {
    let marked = format!(" {name}=\"");
    let found = html.split(&marked).skip(1).filter_map(|rest| rest.split('"').next());
    found.map(|value| value.replace("&amp;", "&")).collect()
}

/// Whether it stays in the site.
fn is_inner(target: &str) -> bool {
    !target.is_empty() && !target.contains("://") && !target.starts_with("mailto:") && !target.starts_with("data:")
}

fn fault(site: &Path, from: &Path, target: &str, pages: &BTreeMap<PathBuf, Page>) -> Option<String> {
    let (file, place) = target.split_once('#').unwrap_or((target, ""));
    let path = if file.is_empty() { from.to_owned() } else { join(from, file) };
    let path = if site.join(&path).is_dir() { path.join("index.html") } else { path };
    match pages.get(&path) {
        Some(page) if !place.is_empty() && !page.places.contains(place) => {
            Some("the page has no such place".to_owned())
        }
        Some(_) => None,
        None if site.join(&path).is_file() => None,
        None => Some(format!("there is no {}", path.display())),
    }
}

/// The path of a link, seen from the page.
fn join(from: &Path, file: &str) -> PathBuf {
    let mut path = from.parent().unwrap_or(Path::new("")).to_owned();
    for part in Path::new(file).components() {
        match part {
            Component::ParentDir => {
                path.pop();
            }
            Component::Normal(name) => path.push(name),
            _ => {}
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_to_nowhere_and_one_to_a_place_that_is_not_there_are_named() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("sub")).unwrap();
        let write = |name: &str, html: &str| fs::write(dir.path().join(name), html).unwrap();
        write("a.html", "<a href=\"sub/b.html#here\">b</a> <a href=\"https://x.example/\">out</a> <img src=\"p.svg\">");
        write("sub/b.html", "<h1 id=\"here\"> <a href=\"../a.html\">a</a>");
        write("p.svg", "");
        assert_eq!(check(dir.path()).unwrap(), 2);
        write("sub/b.html", "<h1 id=\"there\"> <a href=\"../c.html\">c</a>");
        let said = check(dir.path()).unwrap_err().to_string();
        assert!(said.contains("a.html: sub/b.html#here: the page has no such place"), "{said}");
        assert!(said.contains("sub/b.html: ../c.html: there is no c.html"), "{said}");
    }
}
