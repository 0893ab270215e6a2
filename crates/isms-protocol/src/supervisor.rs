//! What passes between the supervisor and the roles that it starts.
//!
//! Both directions are datagrams (SEQPACKET) of one MessagePack value each, over a socket pair whose end
//! the role inherits as [`CHANNEL_FD`]; nothing here travels by argv or environment.

use serde::{Deserialize, Serialize};

use crate::{Incarnation, Secret, Service};

/// Descriptor of the channel in a new role.
pub const CHANNEL_FD: i32 = 3;

/// First datagram to a role. The descriptors travel with it (`SCM_RIGHTS`), in the order of `descriptors`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Bootstrap {
    /// Which role this process is; `Kernel` or one of [`Service::REGISTERED`].
    pub service: Service,
    /// Which run of it.
    pub incarnation: Incarnation,
    /// What it registers with.
    pub secret: Secret,
    /// Uid and gid to become, before anything else is opened; `None` keeps the supervisor's.
    pub user: Option<(u32, u32)>,
    /// The Kernel's socket, relative to the role's working directory.
    pub kernel_socket: String,
    /// Settings of the role, as the role's crate defines them (MessagePack).
    #[serde(with = "serde_bytes")]
    pub config: Vec<u8>,
    /// What the descriptors are.
    pub descriptors: Vec<DescriptorKind>,
}

/// What an inherited descriptor is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum DescriptorKind {
    /// The Kernel's listening socket.
    KernelListener,
    /// An edge's listening TCP socket.
    HttpListener,
    /// The Doer's channel to the spawner.
    Spawner,
}

/// Supervisor → role, after the bootstrap.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToRole {
    /// To the Kernel: this incarnation may register.
    Announce {
        /// Role.
        service: Service,
        /// Its run.
        incarnation: Incarnation,
        /// SHA-256 of its secret.
        secret_hash: [u8; 32],
    },
    /// End in order: finish what runs within the drain time, then exit.
    Stop,
}

/// Role → supervisor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromRole {
    /// "I live"; the Kernel sends it each heartbeat interval.
    Heartbeat,
    /// From the Kernel: a service has registered.
    Registered {
        /// Which.
        service: Service,
        /// Its run.
        incarnation: Incarnation,
    },
    /// From the Kernel: a service's connection has ended.
    Lost {
        /// Which.
        service: Service,
        /// Its run.
        incarnation: Incarnation,
    },
}
