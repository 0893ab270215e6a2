//! Which layer stops which attack, as it was last measured; `cargo xtask hostile --ablation --save` measures anew.

use serde::{Deserialize, Serialize};

/// What became of all probes without layers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ablation {
    /// Release of the kernel that ran them.
    pub kernel: String,
    /// The layers that were left out, each by itself and all together.
    pub layers: Vec<String>,
    /// Each probe.
    pub probes: Vec<Ablated>,
}

/// What became of one probe without layers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ablated {
    /// Its name.
    pub probe: String,
    /// What it goes for.
    pub attacks: String,
    /// Layers without which, all others being there, it succeeds.
    pub stopped_by: Vec<String>,
    /// Without any layer it succeeds.
    pub succeeds_with_none: bool,
    /// What was seen then: the harm, or what the kernel refuses all the same.
    pub seen_with_none: String,
}

/// The last measurement.
pub fn last_ablation() -> Ablation {
    serde_json::from_str(include_str!("../ablation.json"))
        .expect("it was written by xtask, and a test reads it")
}

impl Ablation {
    /// This measurement, which was of `layers` only, with what an earlier one of the same probes found of the others.
    pub fn over(mut self, earlier: &Ablation, layers: &[String]) -> Self {
        for probe in &mut self.probes {
            let Some(before) = earlier.probes.iter().find(|it| it.probe == probe.probe) else {
                continue;
            };
            let kept = |layer: &&String| !layers.contains(layer) && before.stopped_by.contains(layer);
            let stopped_by: Vec<String> = self
                .layers
                .iter()
                .filter(|layer| kept(layer) || probe.stopped_by.contains(layer))
                .cloned()
                .collect();
            probe.stopped_by = stopped_by;
            if !layers.iter().any(|layer| layer == "none") {
                probe.succeeds_with_none = before.succeeds_with_none;
                probe.seen_with_none.clone_from(&before.seen_with_none);
            }
        }
        self
    }

    /// Probes that succeed as soon as one layer is missing.
    pub fn by_one_layer_only(&self) -> Vec<String> {
        let by_one = self.probes.iter().filter(|probe| !probe.stopped_by.is_empty());
        by_one.map(|probe| probe.probe.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_measurement_of_some_layers_keeps_what_was_found_of_the_others() {
        let of = |stopped_by: &[&str], succeeds_with_none: bool| Ablation {
            kernel: "6".to_owned(),
            layers: ["a", "b", "c"].map(str::to_owned).into(),
            probes: vec![Ablated {
                probe: "p".to_owned(),
                attacks: "something".to_owned(),
                stopped_by: stopped_by.iter().map(|layer| (*layer).to_owned()).collect(),
                succeeds_with_none,
                seen_with_none: String::new(),
            }],
        };
        let earlier = of(&["a", "b"], true);
        let layers = ["b".to_owned(), "c".to_owned()];
        assert_eq!(of(&["c"], false).over(&earlier, &layers), of(&["a", "c"], true));
        let layers = ["none".to_owned()];
        assert_eq!(of(&[], false).over(&earlier, &layers), of(&["a", "b"], false));
    }

    #[test]
    fn every_probe_was_measured_and_succeeds_without_layers_or_is_refused_by_somebody_named() {
        if std::env::consts::ARCH != "x86_64" {
            eprintln!("SKIPPED: the probes were measured on x86-64");
            return;
        }
        let (measured, listed) = (last_ablation().probes, crate::catalogue());
        let names = |of: &mut dyn Iterator<Item = String>| of.collect::<Vec<_>>();
        assert_eq!(
            names(&mut measured.iter().map(|probe| probe.probe.clone())),
            names(&mut listed.iter().map(|probe| probe.name.clone()))
        );
        for (measured, listed) in measured.iter().zip(&listed) {
            assert_eq!(
                measured.succeeds_with_none,
                listed.refused_by.is_none(),
                "{}",
                listed.name
            );
            assert!(!measured.seen_with_none.is_empty(), "{}", listed.name);
        }
    }
}
