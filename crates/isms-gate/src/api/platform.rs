//! Status, processes, workers and isolation of the platform.

use http::StatusCode;
use isms_http::Problem;
use isms_protocol::{
    Header, ProjectId, Service,
    doer::{self, Isolation, Workers, WorkersAfter},
    kernel::{self, Processes, Status},
    limits::WORKERS_MAX,
};
use serde::de::DeserializeOwned;

use super::{ASK_TIMEOUT, Answer, Call, json};
use crate::view::{self, Totals};

impl Call<'_> {
    pub(super) async fn status(&self) -> Answer {
        let status: Status = self.ask_kernel(kernel::Operation::Status).await?;
        json(StatusCode::OK, &view::status(&status, &self.gate.logs.usage()))
    }

    /// A project's token gets the processes of its project only.
    pub(super) async fn processes(&self) -> Answer {
        let mut processes: Processes = self.ask_kernel(kernel::Operation::Processes).await?;
        processes.processes.retain(|process| self.sees(process.project));
        json(StatusCode::OK, &view::processes(&processes))
    }

    /// A project's token gets the workers of its project only, and no totals.
    pub(super) async fn workers(&self) -> Answer {
        let mut workers = Workers::default();
        let mut after = WorkersAfter::default();
        loop {
            let part: Workers = self
                .ask(self.doer_header(doer::Operation::Workers), &after)
                .await?;
            let last = part.workers.last().map_or(u64::MAX, |worker| worker.worker);
            workers.workers.extend(part.workers);
            if !part.more || last <= after.worker || workers.workers.len() >= WORKERS_MAX {
                (workers.waiting, workers.ready, workers.running) = (part.waiting, part.ready, part.running);
                break;
            }
            after.worker = last;
        }
        workers.workers.retain(|worker| self.sees(worker.project));
        let totals = match self.caller.project {
            None => Totals::Shown,
            Some(_) => Totals::Hidden,
        };
        json(StatusCode::OK, &view::workers(&workers, totals))
    }

    pub(super) async fn isolation(&self) -> Answer {
        let isolation: Isolation = self
            .ask_bare(self.doer_header(doer::Operation::Isolation))
            .await?;
        json(StatusCode::OK, &isolation)
    }

    pub(super) async fn ask_kernel<T: DeserializeOwned>(
        &self,
        operation: kernel::Operation,
    ) -> Result<T, Problem> {
        self.ask_bare(self.header(Service::Kernel, operation as u16, ProjectId::NONE, ASK_TIMEOUT))
            .await
    }

    fn doer_header(&self, operation: doer::Operation) -> Header {
        self.header(Service::Doer, operation as u16, ProjectId::NONE, ASK_TIMEOUT)
    }
}
