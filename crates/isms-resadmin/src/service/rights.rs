//! Who may ask for what. The edges have checked already; the owner of the data decides.

use isms_protocol::{
    ErrorCode, PrincipalId, ProjectId, Service, WireError,
    resadmin::{Operation, Principal, Right},
};

use super::Core;

/// Checks that a service may ask for this at all.
pub(super) fn check_sender(sender: Service, operation: Operation) -> Result<(), WireError> {
    let allowed: &[Service] = match operation {
        Operation::Authenticate | Operation::Projects | Operation::Routes | Operation::DescribeProject => {
            &[Service::Commserver, Service::Gate]
        }
        Operation::Doee | Operation::Binary | Operation::Kept | Operation::Callee => &[Service::Doer],
        Operation::Grants => &[Service::Dbriver, Service::Commserver, Service::Doer],
        Operation::Deploy
        | Operation::DeleteProject
        | Operation::CreateToken
        | Operation::ListTokens
        | Operation::RevokeToken
        | Operation::Image
        | Operation::UploadImage
        | Operation::ChangeProject
        | Operation::NameDoees => &[Service::Gate],
    };
    if allowed.contains(&sender) {
        return Ok(());
    }
    let message = format!("{sender} may not ask Resadmin for {}", operation.name());
    Err(WireError::new(ErrorCode::Forbidden, message))
}

/// The error that a principal lacks a right.
pub(super) fn forbidden(right: Right) -> WireError {
    let name = match right {
        Right::Invoke => "invoke",
        Right::Read => "read",
        Right::Deploy => "deploy",
        Right::Admin => "admin",
    };
    WireError::new(
        ErrorCode::Forbidden,
        format!("the token lacks the right {name} for this"),
    )
}

impl Core {
    /// The principal of a request, if its token is valid and has the right.
    pub(crate) async fn principal(&self, id: PrincipalId, right: Right) -> Result<Principal, WireError> {
        let principal = self
            .store
            .principal(id, (self.clock)())
            .await?
            .ok_or_else(|| forbidden(right))?;
        if principal.rights.contains(&right) || principal.rights.contains(&Right::Admin) {
            return Ok(principal);
        }
        Err(forbidden(right))
    }

    /// Checks that the principal of a request has a right on a project; None asks for all projects.
    pub(super) async fn authorize(
        &self,
        id: PrincipalId,
        right: Right,
        project: Option<ProjectId>,
    ) -> Result<(), WireError> {
        let principal = self.principal(id, right).await?;
        if principal.project.is_some() && principal.project != project {
            return Err(forbidden(right));
        }
        Ok(())
    }
}
