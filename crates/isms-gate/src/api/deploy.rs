//! Deployments: the tar of a project folder goes to Resadmin, its events come back as they happen.

use isms_http::{Incoming, Upload};
use isms_protocol::{
    Message, ProjectId, Service,
    resadmin::{Deploy, Operation},
};
use tokio::time::Instant;

use super::{Answer, Call, ndjson};

impl Call<'_> {
    /// Deploys what is uploaded. Once events flow the status is 200 whatever comes: the last event
    /// says whether it is deployed.
    pub(super) async fn deploy(&self, body: Incoming) -> Answer {
        let within = self.gate.config.deploy_timeout();
        let upload = Upload {
            body,
            len_max: self.gate.config.deploy_len_max,
            deadline: Instant::now() + within,
        };
        let header = self.header(
            Service::Resadmin,
            Operation::Deploy as u16,
            ProjectId::NONE,
            within,
        );
        let deploy = Deploy {
            only: self.caller.project,
        };
        let exchange = upload
            .call(&self.gate.link, |_| Ok(Message::with_body(header, &deploy)))
            .await?;
        tracing::info!(by = self.caller.name, "a deployment began");
        let (_, events) = exchange.into_body(None);
        Ok(ndjson(events))
    }
}
