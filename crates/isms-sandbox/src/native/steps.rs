//! The steps of a start, by name, so that a failure inside can be told outside as one byte and an errno.

/// A step between clone and exec.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Descriptors = 1,
    Session,
    Identity,
    Template,
    Bind,
    Temporary,
    Proc,
    Granted,
    PivotRoot,
    HostName,
    ResourceLimits,
    NoNewPrivileges,
    Capabilities,
    Landlock,
    Cgroup,
    ParentDeath,
    Seccomp,
    Execute,
}

impl Step {
    const ALL: [Self; 18] = [
        Self::Descriptors,
        Self::Session,
        Self::Identity,
        Self::Template,
        Self::Bind,
        Self::Temporary,
        Self::Proc,
        Self::Granted,
        Self::PivotRoot,
        Self::HostName,
        Self::ResourceLimits,
        Self::NoNewPrivileges,
        Self::Capabilities,
        Self::Landlock,
        Self::Cgroup,
        Self::ParentDeath,
        Self::Seccomp,
        Self::Execute,
    ];

    pub(super) fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|step| *step as u8 == byte)
    }

    /// What could not be done.
    pub(super) fn describe(self) -> &'static str {
        match self {
            Self::Descriptors => "lay out descriptors",
            Self::Session => "open a session",
            Self::Identity => "take on the mapped ids",
            Self::Template => {
                "bind the template root read-only; the run directory must not be on a noexec mount"
            }
            Self::Bind => "show a part of the host",
            Self::Temporary => "mount /tmp",
            Self::Proc => "mount /proc; the host's own /proc must not be masked",
            Self::Granted => "make room for what it was granted",
            Self::PivotRoot => "change the root",
            Self::HostName => "set the host name",
            Self::ResourceLimits => "set resource limits",
            Self::NoNewPrivileges => "renounce new privileges",
            Self::Capabilities => "drop capabilities",
            Self::Landlock => "restrict file access by landlock",
            Self::Cgroup => "wait for the cgroup",
            Self::ParentDeath => "ask to die with the spawner",
            Self::Seccomp => "load the system call filter",
            Self::Execute => "execute the program",
        }
    }
}
