//! Roles of a stopped platform, started by a test that plays the supervisor and every service that it leaves out.

use std::{
    net::{SocketAddr, TcpListener},
    os::{
        fd::{AsFd, OwnedFd},
        unix::{
            fs::{MetadataExt, PermissionsExt},
            net::UnixListener,
        },
    },
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use isms_ipc::{Inbound, Inbox, Link, LinkOptions};
use isms_protocol::{
    Incarnation, Secret, Service, TokenHash, encode,
    kernel::Register,
    supervisor::{Bootstrap, DescriptorKind, FromRole, ToRole},
};
use isms_sandbox::linux::{
    channel::Channel,
    launch::{Launch, arrange},
    seqpacket,
};
use sha2::{Digest, Sha256};

use super::{Platform, Process, SOON, descendants, eventually, new_data};

/// The only incarnation of each role and of each service that the test plays.
const INCARNATION: Incarnation = Incarnation(1);

/// A role's process and the supervisor's end of its channel.
struct Role {
    process: Child,
    channel: Channel,
}

/// A real Kernel and the real owners of data, over a platform's data directory.
pub(crate) struct Roles {
    program: PathBuf,
    data: PathBuf,
    admin_token: TokenHash,
    /// Holds the Kernel's socket; the platform makes its own anew when it starts again.
    folder: tempfile::TempDir,
    /// The Kernel first.
    running: Vec<Role>,
}

impl Roles {
    /// Starts `isms kernel`, `isms resadmin` and `isms dbriver` on the data of a platform that was stopped.
    pub(crate) async fn start(platform: &Platform) -> Roles {
        let folder = new_data();
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o711)).unwrap();
        let mut roles = Roles {
            program: platform.binaries.join("isms"),
            data: platform.data.path().to_owned(),
            admin_token: TokenHash(Sha256::digest(platform.admin_token()).into()),
            folder,
            running: Vec::new(),
        };
        let listener = UnixListener::bind(roles.socket()).unwrap();
        std::fs::set_permissions(roles.socket(), PermissionsExt::from_mode(0o666)).unwrap();
        roles.run(
            Service::Kernel,
            Some((DescriptorKind::KernelListener, listener.into())),
        );
        for service in [Service::Resadmin, Service::Dbriver] {
            roles.announce(service);
            roles.run(service, None);
            roles.registered(service).await;
        }
        roles
    }

    /// Starts `isms commserver`, with loopback addresses that Doees may reach.
    pub(crate) async fn start_commserver(&mut self, permitted: &[SocketAddr]) {
        let allow = permitted
            .iter()
            .map(|address| address.to_string().parse().unwrap());
        let config = isms_commserver::Config {
            egress: isms_commserver::EgressConfig {
                allow: allow.collect(),
                ..Default::default()
            },
            ..Default::default()
        };
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        self.announce(Service::Commserver);
        let given = Some((DescriptorKind::HttpListener, listener.into()));
        self.run_with(Service::Commserver, given, encode(&config));
        self.registered(Service::Commserver).await;
    }

    /// Registers the test as a service, with a secret that the Kernel knows to be live.
    pub(crate) async fn play(&self, service: Service) -> (Link, Inbox) {
        self.announce(service);
        let Register {
            incarnation,
            secret,
            concurrency,
            ..
        } = register(service);
        let (link, mut inbox) = Link::open(LinkOptions {
            socket: self.socket(),
            service,
            incarnation,
            secret,
            concurrency,
        });
        let registered = tokio::time::timeout(SOON, inbox.next()).await.unwrap();
        assert!(
            matches!(registered, Some(Inbound::Registered(_))),
            "{registered:?}"
        );
        (link, inbox)
    }

    /// Stops them in order, so that the platform can be started again.
    pub(crate) fn stop(mut self) {
        while let Some(mut role) = self.running.pop() {
            role.channel.send(&encode(&ToRole::Stop), &[]).unwrap();
            let status = eventually("a role's end", || role.process.try_wait().unwrap());
            assert!(status.success(), "a role ended with {status}");
        }
    }

    /// The Kernel's process.
    pub(crate) fn kernel(&self) -> Process {
        let mut processes = descendants(std::process::id()).into_iter();
        let kernel = self.running[0].process.id();
        processes.find(|process| process.pid == kernel).unwrap()
    }

    /// The Kernel's socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("kernel.sock")
    }

    fn run(&mut self, service: Service, given: Option<(DescriptorKind, OwnedFd)>) {
        let directory = self.data.join(service.name());
        let config = match service {
            Service::Resadmin => encode(&isms_resadmin::Config::new(directory, self.admin_token)),
            Service::Dbriver => encode(&isms_dbriver::Config::new(directory)),
            _ => encode(&isms_kernel::Config::default()),
        };
        self.run_with(service, given, config);
    }

    fn run_with(&mut self, service: Service, given: Option<(DescriptorKind, OwnedFd)>, config: Vec<u8>) {
        let directory = self.data.join(service.name());
        let (ours, theirs) = seqpacket::pair().unwrap();
        let mut command = Command::new(&self.program);
        command
            .arg(service.name())
            .current_dir(&directory)
            .stdin(Stdio::null());
        let launch = Launch {
            descriptors: vec![theirs],
            die_with_parent: true,
            new_session: true,
            is_prompt: true,
        };
        arrange(&mut command, launch).unwrap();
        let role = Role {
            process: command.spawn().unwrap(),
            channel: Channel::new(ours).unwrap(),
        };
        let owner = std::fs::metadata(&directory).unwrap();
        let as_root = rustix::process::geteuid().is_root();
        let (descriptors, sent): (Vec<_>, Vec<_>) = given.into_iter().unzip();
        let bootstrap = Bootstrap {
            service,
            incarnation: INCARNATION,
            secret: secret(service),
            user: as_root.then(|| (owner.uid(), owner.gid())),
            kernel_socket: self.socket().to_str().unwrap().to_owned(),
            config,
            descriptors,
        };
        let sent: Vec<_> = sent.iter().map(AsFd::as_fd).collect();
        role.channel.send(&encode(&bootstrap), &sent).unwrap();
        self.running.push(role);
    }

    /// Tells the Kernel that a service may register.
    pub(crate) fn announce(&self, service: Service) {
        let announcement = ToRole::Announce {
            service,
            incarnation: INCARNATION,
            secret_hash: Sha256::digest(secret(service).0).into(),
        };
        self.running[0].channel.send(&encode(&announcement), &[]).unwrap();
    }

    /// Waits until the Kernel reports that a role has registered.
    async fn registered(&self, service: Service) {
        let expected = FromRole::Registered {
            service,
            incarnation: INCARNATION,
        };
        let heard = async {
            loop {
                let said = self.running[0].channel.receive().await.unwrap();
                let said = said.expect("the Kernel runs").bytes;
                if isms_protocol::decode::<FromRole>(&said).unwrap() == expected {
                    return;
                }
            }
        };
        tokio::time::timeout(SOON, heard).await.unwrap();
    }
}

impl Drop for Roles {
    fn drop(&mut self) {
        for role in &mut self.running {
            // After a failed test only: those that were stopped are no longer in the list.
            let _ = role.process.kill();
            let _ = role.process.wait();
        }
    }
}

/// What a service that was announced registers with.
pub(crate) fn register(service: Service) -> Register {
    Register {
        service,
        incarnation: INCARNATION,
        secret: secret(service),
        concurrency: 8,
    }
}

fn secret(service: Service) -> Secret {
    Secret([service as u8; 32])
}
