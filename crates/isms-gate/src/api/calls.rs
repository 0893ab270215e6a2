//! How the calls of Doees went: as JSON, and with the state of the platform as Prometheus reads it.

use http::{HeaderValue, Response, StatusCode, header};
use isms_http::{Body, Problem};
use isms_protocol::{
    DoeeVersion, ProjectId, Service,
    kernel::{self, Calls, CallsAfter, Status},
    limits::{MEASURED_DOEES_MAX, NAMED_DOEES_MAX},
    resadmin::{NameDoees, NamedDoees, Operation},
};

use super::{ASK_TIMEOUT, Answer, Call, json};
use crate::{
    metrics::{self, Measured, Platform},
    view,
};

impl Call<'_> {
    /// A project's token gets the calls of its own Doees only.
    pub(super) async fn calls(&self) -> Answer {
        json(StatusCode::OK, &view::calls(&self.measured().await?))
    }

    /// A project's token gets the calls of its own Doees only, and nothing of the platform.
    pub(super) async fn metrics(&self) -> Answer {
        let measured = self.measured().await?;
        let platform = match self.caller.project {
            None => Some(Platform {
                status: self.ask_kernel::<Status>(kernel::Operation::Status).await?,
                logs: self.gate.logs.usage(),
                traces: self.gate.traces.usage(),
                exported: self
                    .gate
                    .exported
                    .as_ref()
                    .map(|counts| (counts.sent(), counts.dropped())),
            }),
            Some(_) => None,
        };
        let text = metrics::text(&measured, platform.as_ref());
        let mut response = Response::new(Body::full(text));
        let content_type = HeaderValue::from_static(metrics::CONTENT_TYPE);
        response.headers_mut().insert(header::CONTENT_TYPE, content_type);
        Ok(response)
    }

    /// The Doees that were called and that the caller may see, with their names.
    async fn measured(&self) -> Result<Vec<Measured>, Problem> {
        let operation = kernel::Operation::Calls as u16;
        let mut after = CallsAfter::default();
        let mut doees = Vec::new();
        loop {
            let header = self.header(Service::Kernel, operation, ProjectId::NONE, ASK_TIMEOUT);
            let part: Calls = self.ask(header, &after).await?;
            doees.extend(part.doees);
            // One row more than Doees is that of the rest.
            if part.next <= after.row || doees.len() > MEASURED_DOEES_MAX {
                break;
            }
            after.row = part.next;
        }
        doees.retain(|doee| self.sees(doee.project));
        let named = doees.iter().filter(|doee| !doee.doee.is_none());
        self.learn_names(named.map(|doee| doee.doee)).await?;
        let measured = doees.into_iter().map(|calls| Measured {
            names: self.gate.names.get(calls.doee),
            calls,
        });
        Ok(measured.collect())
    }

    /// Asks what these versions are called, as far as that is not known. Those that Resadmin does not know stay unknown.
    pub(super) async fn learn_names(
        &self,
        versions: impl Iterator<Item = DoeeVersion>,
    ) -> Result<(), Problem> {
        let (unknown, era) = self.gate.names.unknown(versions);
        for versions in unknown.chunks(NAMED_DOEES_MAX) {
            let operation = Operation::NameDoees as u16;
            let header = self.header(Service::Resadmin, operation, ProjectId::NONE, ASK_TIMEOUT);
            let versions = versions.to_vec();
            let named: NamedDoees = self.ask(header, &NameDoees { versions }).await?;
            self.gate.names.learn(named.doees, era);
        }
        Ok(())
    }
}
