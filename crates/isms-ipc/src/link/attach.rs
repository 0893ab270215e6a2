//! A link over one given connection: no registration, no heartbeats, no second connection.
//!
//! For a peer that is not the Kernel: the Doer's end of a worker's data channel. The peer is hostile;
//! what breaks the protocol, asks too much at once, or speaks at length of what is not there, ends the link.

use std::sync::Arc;

use isms_protocol::Service;
use tokio::net::UnixStream;

use super::{
    Handle, Inbox, Link, Shared,
    driver::{End, receive_all},
    session::Session,
};
use crate::{Connection, ConnectionError, Receiver, Side};

/// Requests that this side may have under way; the peer's queue is its own affair.
const CALLS_MAX: u32 = 1024;

impl Link {
    /// Makes the handshake on a connected stream and links over it until either side ends it. The peer
    /// may have `requests_max` requests under way. Must be called on a tokio runtime.
    pub async fn attach(
        stream: UnixStream,
        side: Side,
        service: Service,
        requests_max: u32,
    ) -> Result<(Link, Inbox), ConnectionError> {
        let (sender, receiver) = Connection::establish(stream, side).await?;
        let session = Arc::new(Session::new(service, sender, CALLS_MAX).with_stranger(requests_max));
        let shared = Arc::<Shared>::default();
        shared.set_session(Some(Arc::clone(&session)));
        // Not joined: it ends with the connection, or with the last holder.
        tokio::spawn(serve(Arc::clone(&shared), session, receiver));
        let handle = Arc::new(Handle { shared });
        Ok((
            Link {
                handle: Arc::clone(&handle),
            },
            Inbox { handle },
        ))
    }
}

async fn serve(shared: Arc<Shared>, session: Arc<Session>, mut receiver: Receiver) {
    let stopped = tokio::select! {
        biased;
        () = shared.stop.wait() => true,
        end = receive_all(&shared, &session, &mut receiver) => {
            let End { why, violation } = end;
            tracing::debug!(why, violation, "an attached link ended");
            if violation {
                shared.set_violation(why);
            }
            false
        }
    };
    shared.set_session(None);
    session.lose();
    shared.inbox.lost();
    if stopped {
        receiver.shut_down().await;
    }
    shared.inbox.close_after_rest();
    shared.stopped.set();
}
