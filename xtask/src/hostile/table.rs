//! The page docs/hostile.md, written from a measurement.

use std::fmt::Write as _;

use isms_hostile::{Ablation, catalogue};

use super::ablation::Layer;

/// Where the page is.
pub(super) const PAGE: &str = "docs/hostile.md";

/// The whole page.
pub(super) fn page(ablation: &Ablation, layers: &[Layer]) -> String {
    let with_none = ablation.probes.iter().filter(|probe| probe.succeeds_with_none);
    let mut text = format!(
        "# The hostile suite: which layer stops what\n\n\
         Written by `cargo xtask hostile --ablation --save`; do not edit. Each row is an attack that runs as a Doee on \
         the\nplatform, as root, in a virtual machine with Linux {} and control groups of version 2.\n\n\
         With all layers every one is contained. The second column names the layers without which, all others being \
         there,\nit succeeds; where it is empty, more than one layer stops it, or something that is no layer of the \
         sandbox. The last\none says what came of it without any layer, or who refuses it even then. Attacks and \
         expected outcomes are in\n`hostile/probes`.\n\n\
         {} attacks; {} of them are stopped by one layer alone; {} succeed without any layer.\n\n",
        ablation.kernel,
        ablation.probes.len(),
        ablation.by_one_layer_only().len(),
        with_none.count(),
    );
    text.push_str("| attack | stopped by this layer alone | without any layer |\n|---|---|---|\n");
    let probes = catalogue();
    for ablated in &ablation.probes {
        let probe = probes.iter().find(|probe| probe.name == ablated.probe);
        let outcome = match probe.and_then(|probe| probe.refused_by.as_deref()) {
            Some(by) if !ablated.succeeds_with_none => format!("**refused by {}**", cell(by)),
            _ if !ablated.succeeds_with_none => format!("**refused**: {}", cell(&ablated.seen_with_none)),
            _ => format!("succeeds: {}", cell(&ablated.seen_with_none)),
        };
        let _ = writeln!(
            text,
            "| `{}`: {} | {} | {outcome} |",
            ablated.probe,
            cell(&ablated.attacks),
            ablated.stopped_by.join(", "),
        );
    }
    text.push_str("\n## The layers\n\n| layer | without it | attacks that then succeed |\n|---|---|---|\n");
    for layer in layers {
        let stopped = ablation
            .probes
            .iter()
            .filter(|probe| probe.stopped_by.contains(&layer.name));
        let _ = writeln!(
            text,
            "| {} | {} | {} |",
            layer.name,
            layer.without,
            stopped.count()
        );
    }
    text
}

/// Text that cannot end its cell or begin something else.
fn cell(text: &str) -> String {
    const LEN_MAX: usize = 120;
    let mut plain: String = text
        .chars()
        .map(|c| match c {
            '|' => '/',
            '`' => '\'',
            '[' => '(',
            ']' => ')',
            '<' => '‹',
            c if c.is_control() => ' ',
            c => c,
        })
        .take(LEN_MAX)
        .collect();
    if text.chars().nth(LEN_MAX).is_some() {
        plain.push('…');
    }
    plain
}

#[cfg(test)]
mod tests {
    use isms_hostile::last_ablation;

    use super::*;
    use crate::{hostile::ablation, workspace};

    #[test]
    fn the_page_is_what_the_last_measurement_makes_of_it() {
        let path = workspace::root().join(PAGE);
        let written = super::page(&last_ablation(), &ablation::layers().unwrap());
        if std::env::var_os("ISMS_BLESS").is_some() {
            std::fs::write(&path, &written).unwrap();
        }
        let page = std::fs::read_to_string(&path).unwrap();
        assert!(page == written, "run this test once with ISMS_BLESS=1");
    }

    #[test]
    fn the_layers_of_today_were_left_out() {
        let layers: Vec<String> = ablation::layers()
            .unwrap()
            .into_iter()
            .map(|layer| layer.name)
            .collect();
        assert_eq!(last_ablation().layers, layers);
    }

    #[test]
    fn what_a_probe_says_stays_in_its_cell() {
        assert_eq!(cell("a|b `c` [d](e)\n<f>"), "a/b 'c' (d)(e) ‹f>");
    }
}
