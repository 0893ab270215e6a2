//! `isms new`: a project that deploys as it is.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};

use crate::{
    cli::{Lang, NewArgs},
    output::bold,
    sdk::{C_TEMPLATE, CPP_TEMPLATE},
};

pub(crate) fn run(args: &NewArgs) -> Result<()> {
    let name = args.name.as_str();
    ensure!(
        is_name(name),
        "{name:?} is no name of a project: small letters, digits and hyphens, a letter first, at most {} of them",
        isms_protocol::limits::NAME_LEN_MAX
    );
    let folder = Path::new(name);
    ensure!(
        !folder.exists(),
        "{name} exists already; choose another name or remove it"
    );
    let template = match args.lang {
        Lang::Cpp => CPP_TEMPLATE,
        Lang::C => C_TEMPLATE,
    };
    for (path, content) in template {
        let path = folder.join(path.replace("{{name}}", name));
        let parent = path
            .parent()
            .expect("a template's file lies in the project's folder");
        fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
        fs::write(&path, content.replace("{{name}}", name))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    eprintln!("made {name}/; next: {}", bold(&format!("isms deploy {name}")));
    Ok(())
}

fn is_name(name: &str) -> bool {
    name.len() <= isms_protocol::limits::NAME_LEN_MAX
        && name.starts_with(|letter: char| letter.is_ascii_lowercase())
        && name
            .chars()
            .all(|letter| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_small_letters_digits_and_hyphens() {
        assert!(is_name("machine-monitor2"));
        for name in ["", "2x", "-x", "Machine", "a_b", "a/b", "..", "ä"] {
            assert!(!is_name(name), "{name}");
        }
    }
}
