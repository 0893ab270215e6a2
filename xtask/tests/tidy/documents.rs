//! Rules about the pages: links lead somewhere, indexes are complete, named tests exist.

use std::{
    collections::BTreeSet,
    path::{Component, Path, PathBuf},
};

use crate::{
    File, assert_none, files, root,
    rust_text::{code_only, word_offsets},
};

/// Pages that a reader of the repository expects at its root.
const PAGES: [&str; 7] = [
    "README.md",
    "ARCHITECTURE.md",
    "STYLE.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "docs/README.md",
    "docs/testing.md",
];

fn page(path: &str) -> File {
    let page = files(&["md"]).into_iter().find(|file| file.path == path);
    page.unwrap_or_else(|| panic!("{path} is missing"))
}

#[test]
fn the_pages_of_the_house_are_there() {
    for path in PAGES {
        page(path);
    }
    assert!(page("CHANGELOG.md").text.contains("\n## [Unreleased]\n"));
    let licence = std::fs::read_to_string(root().join("LICENSE")).unwrap();
    assert!(licence.contains("Apache License") && licence.contains("END OF TERMS AND CONDITIONS"));
}

#[test]
fn every_relative_link_leads_to_a_file_and_to_a_heading_in_it() {
    let pages = files(&["md"]);
    let mut violations = Vec::new();
    for page in &pages {
        for link in links(&page.text) {
            if let Err(why) = follow(page, &link, &pages) {
                violations.push(format!("{}: {link}: {why}", page.path));
            }
        }
    }
    assert_none("dead links", &violations);
}

#[test]
fn the_index_of_the_documentation_names_every_page() {
    let linked: BTreeSet<String> = links(&page("docs/README.md").text).into_iter().collect();
    let pages = files(&["md"]);
    let own = pages
        .iter()
        .filter_map(|file| file.path.strip_prefix("docs/"))
        .filter(|name| *name != "README.md");
    let violations: Vec<String> = own
        .filter(|name| !linked.contains(*name))
        .map(str::to_owned)
        .collect();
    assert_none("not in docs/README.md", &violations);
}

#[test]
fn docs_testing_names_only_files_and_tests_that_exist() {
    let sources = files(&["rs"]);
    let functions: BTreeSet<String> = sources
        .iter()
        .flat_map(|file| function_names(&file.text))
        .collect();
    let violations: Vec<String> = code_spans(&page("docs/testing.md").text)
        .into_iter()
        .filter(|span| !span.contains([' ', '{', '*', '=', '<', '#']))
        .filter(|span| !is_known(span, &sources, &functions))
        .collect();
    assert_none("docs/testing.md names what is not there", &violations);
}

/// A code span of docs/testing.md is checked when it looks like a file (`a/b.rs`), a test in a file
/// (`a/b.rs::test`) or a test by its module path (`module::test`).
fn is_known(span: &str, sources: &[File], functions: &BTreeSet<String>) -> bool {
    if let Some((path, test)) = span.split_once(".rs::") {
        let path = format!("{path}.rs");
        let source = sources.iter().find(|file| file.path == path);
        let name = test.rsplit("::").next().unwrap_or(test);
        return source.is_some_and(|file| function_names(&file.text).iter().any(|known| known == name));
    }
    if let Some((_, name)) = span.rsplit_once("::") {
        return functions.contains(name);
    }
    let is_path = span.contains('/') && !span.starts_with(['/', '-', '$']) && !span.starts_with("target/");
    !is_path || root().join(span).exists()
}

fn function_names(text: &str) -> Vec<String> {
    let code = code_only(text);
    let name = |at: usize| {
        code[at + 2..]
            .trim_start()
            .chars()
            .take_while(|c| c.is_alphanumeric() || *c == '_')
            .collect::<String>()
    };
    word_offsets(&code, "fn").map(name).collect()
}

/// A page's lines outside of fenced blocks.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut fenced = false;
    text.lines().filter(move |line| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        !fence && !fenced
    })
}

fn code_spans(text: &str) -> Vec<String> {
    prose(text)
        .flat_map(|line| {
            line.split('`')
                .skip(1)
                .step_by(2)
                .map(str::to_owned)
                .collect::<Vec<_>>()
        })
        .collect()
}

/// Targets of a page's links, without those that leave the repository.
fn links(text: &str) -> Vec<String> {
    let mut links = Vec::new();
    for line in prose(text) {
        let without_code: String = line.split('`').step_by(2).collect::<Vec<_>>().join("`");
        for (_, rest) in without_code
            .match_indices("](")
            .map(|(at, it)| without_code.split_at(at + it.len()))
        {
            let target = rest.split([')', ' ']).next().unwrap_or_default();
            if !target.contains("://") && !target.starts_with("mailto:") {
                links.push(target.to_owned());
            }
        }
    }
    links
}

fn follow(page: &File, link: &str, pages: &[File]) -> Result<(), String> {
    let (path, heading) = link
        .split_once('#')
        .map_or((link, None), |(path, heading)| (path, Some(heading)));
    let target = if path.is_empty() {
        PathBuf::from(&page.path)
    } else {
        normalise(&Path::new(&page.path).parent().unwrap().join(path)).ok_or("leaves the repository")?
    };
    if !root().join(&target).exists() {
        return Err("no such file".to_owned());
    }
    let Some(heading) = heading else { return Ok(()) };
    let linked = pages
        .iter()
        .find(|page| Path::new(&page.path) == target)
        .ok_or("has no headings")?;
    let found = prose(&linked.text)
        .filter(|line| line.starts_with('#'))
        .any(|line| anchor(line) == heading);
    found.then_some(()).ok_or_else(|| "no such heading".to_owned())
}

/// A path without `.` and `..`; `None` when it leaves the repository.
fn normalise(path: &Path) -> Option<PathBuf> {
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => clean.push(name),
            Component::CurDir => {}
            Component::ParentDir => clean.pop().then_some(())?,
            _ => return None,
        }
    }
    Some(clean)
}

/// The anchor that a heading gets when it is rendered.
fn anchor(heading: &str) -> String {
    let title = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = title
        .chars()
        .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[test]
fn links_are_found_outside_of_code() {
    let text = "see [a](b.md#c) and `[x](y)`\n```\n[no](no.md)\n```\n[web](https://example.org) [d](e/)";
    assert_eq!(links(text), ["b.md#c", "e/"]);
    assert_eq!(anchor("## Decisions, and `why`"), "decisions-and-why");
}
