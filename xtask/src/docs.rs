//! `cargo xtask docs`: the pages of docs/, what is generated from the code, and mdBook make a site in target/site.
//!
//! Every page must be reachable and every link must lead somewhere, or it fails. The tree is never changed.

mod links;

use std::fs;
use std::path::Path;

use anyhow::{Context as _, bail};

use crate::{prepare, shell};

/// Builds and checks; the site is in `target/site` when this returns.
pub(crate) fn run() -> anyhow::Result<()> {
    let mdbook = prepare::mdbook()?;
    shell::run("cargo", &["build", "--quiet", "--package", "hms-ess"])?;
    let book = prepare::target().join("book");
    let site = prepare::target().join("site");
    for old in [&book, &site] {
        if old.exists() {
            fs::remove_dir_all(old).with_context(|| format!("could not remove {}", old.display()))?;
        }
    }
    assemble(&book)?;
    let (book, site) = (text(&book)?, text(&site)?);
    shell::run(text(&mdbook)?, &["build", "--dest-dir", site, book])?;
    let pages = links::check(Path::new(site))?;
    shell::say(&format!("{pages} pages in {site}/index.html, every link leads somewhere"));
    Ok(())
}

/// The book's source: the pages as they are, the changelog, the first page, and the references from the code.
fn assemble(book: &Path) -> anyhow::Result<()> {
    let root = shell::root();
    let source = book.join("src");
    copy(&root.join("docs"), &source)?;
    fs::rename(source.join("book.toml"), book.join("book.toml")).context("docs/book.toml is missing")?;
    fs::copy(root.join("CHANGELOG.md"), source.join("CHANGELOG.md")).context("could not copy the changelog")?;
    let first = fs::read_to_string(root.join("README.md")).context("could not read README.md")?;
    fs::write(source.join("README.md"), first_page(&first)).context("could not write the first page")?;
    let program = prepare::target().join("debug/hms-ess");
    shell::run(text(&program)?, &["reference", text(&source.join("reference"))?])?;
    let summary = fs::read_to_string(source.join("SUMMARY.md")).context("could not read docs/SUMMARY.md")?;
    let summary = expand(&summary, &source)?;
    for page in pages_beneath(&source, "")? {
        if page != "SUMMARY.md" && !summary.contains(&format!("({page})")) {
            bail!("docs/{page} is not in docs/SUMMARY.md: nobody can reach it");
        }
    }
    fs::write(source.join("SUMMARY.md"), summary).context("could not write the summary")
}

/// The project's README as the book's first page: its links are those of the tree, its build's badges and raw HTML stay.
fn first_page(readme: &str) -> String {
    let mut page = readme.replace("](docs/", "](").replace("src=\"docs/", "src=\"");
    for (file, told) in [("LICENSE-MIT", "MIT"), ("LICENSE-APACHE", "Apache-2.0")] {
        page = page.replace(&format!("[{file}]({file})"), told);
    }
    page.replace("](errors)", "](errors/index.md)")
}

/// Puts the pages of a folder, or a page that may not be there, where the summary says `<!-- pages: FOLDER -->`.
fn expand(summary: &str, source: &Path) -> anyhow::Result<String> {
    let mut expanded = String::new();
    for line in summary.lines() {
        let indent = &line[..line.len() - line.trim_start().len()];
        let marked = |word: &str| line.trim().strip_prefix(word)?.strip_suffix(" -->");
        let pages = match (marked("<!-- pages: "), marked("<!-- page: ")) {
            (Some(folder), _) if source.join(folder).is_dir() => pages_beneath(source, folder)?,
            (_, Some(page)) if source.join(page).is_file() => vec![page.to_owned()],
            (Some(_), _) | (_, Some(_)) => Vec::new(),
            _ => {
                expanded.push_str(line);
                expanded.push('\n');
                continue;
            }
        };
        for page in pages.iter().filter(|page| !page.ends_with("README.md")) {
            let title = title(&source.join(page))?;
            expanded.push_str(&format!("{indent}- [{title}]({page})\n"));
        }
    }
    Ok(expanded)
}

/// A page's first heading.
fn title(page: &Path) -> anyhow::Result<String> {
    let text = fs::read_to_string(page).with_context(|| format!("could not read {}", page.display()))?;
    let first = text.lines().find_map(|line| line.strip_prefix("# "));
    Ok(first.with_context(|| format!("{} has no heading", page.display()))?.to_owned())
}

/// Every page beneath a folder of the source, by its path.
fn pages_beneath(source: &Path, folder: &str) -> anyhow::Result<Vec<String>> {
    let mut pages = Vec::new();
    let dir = source.join(folder);
    for entry in fs::read_dir(&dir).with_context(|| format!("could not read {}", dir.display()))? {
        let entry = entry.context("could not read a folder of the docs")?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = if folder.is_empty() { name } else { format!("{folder}/{name}") };
        if entry.path().is_dir() {
            pages.extend(pages_beneath(source, &path)?);
        } else if path.ends_with(".md") {
            pages.push(path);
        }
    }
    pages.sort();
    Ok(pages)
}

fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(to).with_context(|| format!("could not make {}", to.display()))?;
    for entry in fs::read_dir(from).with_context(|| format!("could not read {}", from.display()))? {
        let entry = entry.context("could not read a folder of the docs")?;
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), &target).with_context(|| format!("could not copy {}", entry.path().display()))?;
        }
    }
    Ok(())
}

fn text(path: &Path) -> anyhow::Result<&str> {
    path.to_str().with_context(|| format!("the path {} is not UTF-8", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pages_of_a_folder_and_a_page_that_is_there_stand_where_the_summary_says() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("alerts")).unwrap();
        for (name, heading) in
            [("alerts/b.md", "Beta"), ("alerts/a.md", "Alpha"), ("alerts/README.md", "All"), ("m.md", "Metrics")]
        {
            fs::write(dir.path().join(name), format!("# {heading}\n")).unwrap();
        }
        let summary = "- [X](x.md)\n  <!-- pages: alerts -->\n<!-- page: m.md -->\n<!-- page: none.md -->\n<!-- pages: none -->\n";
        let expanded = expand(summary, dir.path()).unwrap();
        assert_eq!(expanded, "- [X](x.md)\n  - [Alpha](alerts/a.md)\n  - [Beta](alerts/b.md)\n- [Metrics](m.md)\n");
    }

    #[test]
    fn the_readme_becomes_a_page_whose_links_stay_right() {
        let page = first_page(
            "[t](docs/tutorial.md) <img src=\"docs/img/a.svg\"> [errors](docs/errors) [LICENSE-MIT](LICENSE-MIT)",
        );
        assert_eq!(page, "[t](tutorial.md) <img src=\"img/a.svg\"> [errors](errors/index.md) MIT");
    }
}
