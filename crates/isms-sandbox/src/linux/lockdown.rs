//! The second step of confinement, taken by the executor itself once it has started.
//!
//! Start-up needs `execve`; nothing later does. So the executor removes it, and with it the calls that
//! could load filters or make the process dumpable, before it looks at the first byte of a Doee.

use std::io;

use crate::{
    ablation::{self, Layer},
    seccomp,
};

/// Makes the process non-dumpable and removes `execve`, `execveat` and what only start-up needs, from every
/// thread, for good. Call it before any thread is started and any foreign code is loaded.
pub fn forbid_exec() -> io::Result<()> {
    ablation::read();
    if ablation::leaves_out(Layer::SecondSeccomp) || ablation::leaves_out(Layer::NoNewPrivileges) {
        return Ok(());
    }
    super::process::set_dumpable(false)?;
    super::process::set_no_new_privs()?;
    seccomp::load(&seccomp::start_up_over())
}
