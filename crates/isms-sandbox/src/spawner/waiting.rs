//! Sandboxes that were asked for and wait until their image is staged.

use super::{
    environment::{Backend, Environment, Holes, ImageHash},
    images::{Failure, Form},
};
use crate::{apptainer::allowance, native::Limits};

/// A sandbox that a Doer asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    /// The Doer's number for it.
    pub(super) number: u64,
    pub(super) environment: Environment,
    pub(super) limits: Limits,
}

impl Asked {
    /// The image that it needs, and what it needs that for.
    pub(super) fn image(&self) -> Option<(ImageHash, Form)> {
        let form = match self.environment.backend {
            Backend::Native => Form::Root,
            Backend::Apptainer => Form::File,
        };
        self.environment.image.map(|image| (image, form))
    }

    /// The same without openings: what a probe runs in.
    pub(super) fn without_holes(self) -> Self {
        let holes = Holes::default();
        Self {
            environment: Environment {
                holes,
                ..self.environment
            },
            ..self
        }
    }

    /// It waits for a container of that image.
    pub(super) fn is_contained_in(&self, image: Option<ImageHash>) -> bool {
        self.environment.backend == Backend::Apptainer && image.is_some() && self.environment.image == image
    }

    /// What its group is given for it to have `limits`.
    pub(super) fn group_limits(&self, limits: &Limits) -> Limits {
        match self.environment.backend {
            Backend::Native => *limits,
            Backend::Apptainer => allowance(limits),
        }
    }

    /// What has no file has no root either.
    pub(super) fn is_failed_by(&self, failure: &Failure) -> bool {
        self.image().is_some_and(|(image, form)| {
            image == failure.image && (failure.form == Form::File || form == failure.form)
        })
    }
}
