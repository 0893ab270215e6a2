//! What a worker consists of: from the words of a manifest to the closed request that the spawner takes, and the
//! trial start that a deployment asks for.

use std::{collections::HashMap, path::PathBuf, rc::Rc};

use bytes::Bytes;
use isms_ipc::InboundRequest;
use isms_protocol::{
    ErrorCode, WireError,
    doer::{Backend, Environment},
};
use isms_sandbox::{
    native::Profile,
    spawner::{self, Holes, ImageHash},
};
use tokio::sync::oneshot;

use crate::{
    Config,
    service::Doer,
    worker_handler::{Event, TrialId},
};

/// Translates a manifest's wishes; fails when the administrator's lists do not have them (any more).
pub(crate) fn resolve(wanted: &Environment, config: &Config) -> Result<spawner::Environment, WireError> {
    Ok(spawner::Environment {
        profile: Profile::Worker,
        backend: match wanted.backend {
            Backend::Native => spawner::Backend::Native,
            Backend::Apptainer => spawner::Backend::Apptainer,
        },
        image: wanted.image.map(|image| ImageHash(image.0)),
        holes: Holes {
            devices: places(&wanted.device_nodes, &config.device_nodes, "device_nodes")?,
            directories: places(&wanted.directories, &config.directories, "directories")?,
            network: false,
        },
    })
}

/// A backend as the protocol names it.
pub(crate) fn backend(backend: spawner::Backend) -> Backend {
    match backend {
        spawner::Backend::Native => Backend::Native,
        spawner::Backend::Apptainer => Backend::Apptainer,
    }
}

/// A bit for each place in the list.
fn places(wanted: &[String], allowed: &[PathBuf], setting: &str) -> Result<u64, WireError> {
    wanted.iter().try_fold(0, |places, path| {
        let place = allowed
            .iter()
            .take(u64::BITS as usize)
            .position(|allowed| allowed.as_os_str() == path.as_str());
        place.map(|place| places | 1 << place).ok_or_else(|| {
            let message = format!(
                "{path} is not open to workers: the administrator has not listed it in [workers] {setting}"
            );
            WireError::new(ErrorCode::Forbidden, message)
        })
    })
}

/// The trial starts that somebody waits for.
#[derive(Default)]
pub(crate) struct Trials {
    next: u64,
    waiting: HashMap<u64, oneshot::Sender<Result<(), WireError>>>,
}

impl Trials {
    fn begin(&mut self) -> (TrialId, oneshot::Receiver<Result<(), WireError>>) {
        let (sender, receiver) = oneshot::channel();
        self.next += 1;
        self.waiting.insert(self.next, sender);
        (TrialId(self.next), receiver)
    }

    /// Tells the outcome to who waits for it.
    pub(crate) fn end(&mut self, trial: TrialId, outcome: Result<(), WireError>) {
        if let Some(sender) = self.waiting.remove(&trial.0) {
            let _ = sender.send(outcome);
        }
    }
}

/// Serves a request to try an environment.
pub(crate) async fn serve_trial(doer: Rc<Doer>, request: InboundRequest) {
    let InboundRequest {
        message, responder, ..
    } = request;
    let wanted = message.decode_body::<Environment>().map_err(|error| {
        WireError::new(
            ErrorCode::Invalid,
            format!("the environment cannot be read: {error}"),
        )
    });
    let environment = match wanted.and_then(|wanted| resolve(&wanted, &doer.config)) {
        Ok(environment) => environment,
        Err(error) => return responder.error(error),
    };
    let (trial, outcome) = doer.state.borrow_mut().trials.begin();
    doer.dispatch(Event::Try { trial, environment });
    let outcome = tokio::select! {
        outcome = outcome => outcome,
        () = responder.cancelled() => {
            doer.state.borrow_mut().trials.waiting.remove(&trial.0);
            return doer.dispatch(Event::TrialDropped { trial });
        }
    };
    let gone = || WireError::new(ErrorCode::Unavailable, "the doer is stopping");
    match outcome.unwrap_or_else(|_| Err(gone())) {
        Ok(()) => responder.reply(&(), Bytes::new()),
        Err(error) => responder.error(error),
    }
}

#[cfg(test)]
mod tests {
    use isms_protocol::ContentHash;

    use super::*;

    fn config() -> Config {
        Config {
            device_nodes: vec!["/dev/a".into(), "/dev/b".into(), "/dev/c".into()],
            directories: vec!["/srv/maps".into()],
            ..Config::default()
        }
    }

    #[test]
    fn the_common_environment_is_a_plain_worker() {
        assert_eq!(
            resolve(&Environment::default(), &config()),
            Ok(spawner::Environment::WORKER)
        );
    }

    #[test]
    fn openings_are_named_by_their_places_in_the_administrators_lists() {
        let wanted = Environment {
            backend: Backend::Apptainer,
            image: Some(ContentHash([7; 32])),
            device_nodes: vec!["/dev/c".into(), "/dev/a".into()],
            directories: vec!["/srv/maps".into()],
        };
        let resolved = resolve(&wanted, &config()).unwrap();
        assert_eq!(resolved.backend, spawner::Backend::Apptainer);
        assert_eq!(resolved.image, Some(ImageHash([7; 32])));
        assert_eq!((resolved.holes.devices, resolved.holes.directories), (0b101, 1));
    }

    #[test]
    fn what_is_not_in_a_list_is_refused_with_the_setting() {
        let wanted = Environment {
            device_nodes: vec!["/dev/a".into(), "/dev/aa".into()],
            ..Environment::default()
        };
        let error = resolve(&wanted, &config()).unwrap_err();
        assert_eq!(error.code, ErrorCode::Forbidden);
        assert!(
            error.message.contains("/dev/aa") && error.message.contains("device_nodes"),
            "{error}"
        );
        let many = Config {
            directories: (0..65).map(|number| format!("/d/{number}").into()).collect(),
            ..Config::default()
        };
        let last = Environment {
            directories: vec!["/d/64".into()],
            ..Environment::default()
        };
        assert!(resolve(&last, &many).is_err(), "a request has room for 64");
    }
}
