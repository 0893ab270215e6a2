//! What the runtime is told: its command line, its environment, its configuration, and where things lie for it.
//!
//! Invariant: a request contributes numbers, and names out of the administrator's lists that were checked when the
//! spawner started; everything else is text of this file.

use std::ffi::CString;

/// Where the init binds the staged directory, hiding the host's own `/run` with its sockets.
pub(super) const RUN: &str = "/run";
/// Names in the staged directory, so below [`RUN`].
pub(super) const IMAGE: &str = "image.sif";
pub(super) const EXECUTOR: &str = "doee-executor";
pub(super) const CONFIGURATION: &str = "apptainer.conf";
pub(super) const CONFIGURATION_WITH_DEVICES: &str = "apptainer-devices.conf";
pub(super) const PROBE: &str = "probe";
pub(super) const PROFILE: &str = "seccomp.json";
pub(super) const PROFILE_WITH_DEVICES: &str = "seccomp-devices.json";
pub(super) const TEMPORARY: &str = "tmp";
pub(super) const STATE: &str = "state";
pub(super) const DEVICES: &str = "devices";
pub(super) const DIRECTORIES: &str = "directories";
pub(super) const EMPTY_DIRECTORY: &str = "empty";
pub(super) const EMPTY_FILE: &str = "nothing";

/// Where the executor is in the container.
const EXECUTOR_INSIDE: &str = "/isms/doee-executor";

/// Takes the place of the machine's configuration file. Only the programs of the image and what is bound by the command
/// line is inside.
pub(super) fn configuration(with_devices: bool) -> String {
    // A small /dev of the runtime's own is needed to show a device at all; without one there is none.
    let dev = if with_devices { "minimal" } else { "no" };
    format!(
        "\
allow setuid = yes
allow user ns = yes
allow pid ns = yes
allow ipc ns = yes
allow uts ns = yes
max loop devices = 1024
shared loop devices = no
root default capabilities = no
config passwd = no
config group = no
config resolv_conf = no
mount proc = yes
mount sys = no
mount dev = {dev}
mount devpts = no
mount home = no
mount tmp = no
mount hostfs = no
mount slave = no
user bind control = yes
enable fusemount = no
enable overlay = no
enable underlay = yes
sessiondir max size = 16
memory fs type = tmpfs
allow container sif = yes
allow container encrypted = no
allow container squashfs = no
allow container extfs = no
allow container dir = no
always use nv = no
always use rocm = no
systemd cgroups = no
"
    )
}

/// Names and values, under both names that the runtime has gone by.
pub(super) fn environment() -> Vec<CString> {
    let state = format!("{RUN}/{STATE}");
    let mut variables = vec![
        "PATH=/usr/sbin:/usr/bin:/sbin:/bin".to_owned(),
        format!("HOME={state}"),
        format!("TMPDIR={state}"),
    ];
    for prefix in ["APPTAINER", "SINGULARITY"] {
        for name in ["CONFIGDIR", "CACHEDIR", "TMPDIR"] {
            variables.push(format!("{prefix}_{name}={state}"));
        }
    }
    c_strings(variables)
}

/// What is bound into the container beyond the executor and `/tmp`.
#[derive(Debug, Default)]
pub(super) struct Binds<'a> {
    /// Paths of devices, the same for the runtime and inside.
    pub(super) devices: &'a [String],
    /// Places inside; the runtime has the directories by their numbers.
    pub(super) directories: &'a [String],
    /// Directories and files of `/proc` that are hidden.
    pub(super) hidden_directories: &'a [String],
    pub(super) hidden_files: &'a [String],
}

/// The command line for a worker with this uid and gid.
pub(super) fn arguments(id: u32, binds: &Binds<'_>) -> Vec<CString> {
    let (configuration, profile) = if binds.devices.is_empty() {
        (CONFIGURATION, PROFILE)
    } else {
        (CONFIGURATION_WITH_DEVICES, PROFILE_WITH_DEVICES)
    };
    let mut words: Vec<String> = [
        "apptainer",
        "-s",
        "--config",
        &format!("{RUN}/{configuration}"),
        "exec",
        "--containall",
        "--cleanenv",
        "--no-eval",
        "--no-init",
        "--no-home",
        "--no-privs",
        "--disable-cache",
        "--no-mount",
        "sys,devpts,home,tmp,hostfs,cwd,bind-paths",
        "--security",
        &format!("uid:{id}"),
        "--security",
        &format!("gid:{id}"),
        "--security",
        &format!("seccomp:{RUN}/{profile}"),
    ]
    .map(str::to_owned)
    .into();
    let mut bind = |source: &str, inside: &str, mode: &str| {
        words.extend(["--bind".to_owned(), format!("{source}:{inside}:{mode}")]);
    };
    bind(&format!("{RUN}/{TEMPORARY}"), "/tmp", "rw");
    bind(&format!("{RUN}/{EXECUTOR}"), EXECUTOR_INSIDE, "ro");
    for path in binds.devices {
        bind(path, path, "rw");
    }
    for (number, inside) in binds.directories.iter().enumerate() {
        bind(&format!("{RUN}/{DIRECTORIES}/{number}"), inside, "ro");
    }
    let of_devices = ["/dev/shm", "/dev/mqueue"].map(str::to_owned);
    let of_devices = if binds.devices.is_empty() {
        &[]
    } else {
        &of_devices[..]
    };
    for path in binds.hidden_directories.iter().chain(of_devices) {
        bind(&format!("{RUN}/{EMPTY_DIRECTORY}"), path, "ro");
    }
    for path in binds.hidden_files {
        bind(&format!("{RUN}/{EMPTY_FILE}"), path, "ro");
    }
    words.extend([format!("{RUN}/{IMAGE}"), EXECUTOR_INSIDE.to_owned()]);
    c_strings(words)
}

/// None of our texts holds a zero byte.
fn c_strings(texts: Vec<String>) -> Vec<CString> {
    texts
        .into_iter()
        .filter_map(|text| CString::new(text).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(binds: &Binds<'_>) -> String {
        let words: Vec<_> = arguments(70_001, binds)
            .into_iter()
            .map(|word| word.into_string().unwrap())
            .collect();
        words.join(" ")
    }

    #[test]
    fn the_command_line_holds_numbers_and_fixed_text_only() {
        assert_eq!(
            line(&Binds::default()),
            "apptainer -s --config /run/apptainer.conf exec --containall --cleanenv --no-eval --no-init --no-home \
             --no-privs --disable-cache --no-mount sys,devpts,home,tmp,hostfs,cwd,bind-paths --security uid:70001 \
             --security gid:70001 --security seccomp:/run/seccomp.json --bind /run/tmp:/tmp:rw --bind \
             /run/doee-executor:/isms/doee-executor:ro /run/image.sif /isms/doee-executor"
        );
    }

    #[test]
    fn openings_are_bound_at_their_places_and_devices_hide_what_comes_with_them() {
        let binds = Binds {
            devices: &["/dev/ttyUSB0".to_owned()],
            directories: &["/data/maps".to_owned()],
            hidden_directories: &["/proc/sys".to_owned()],
            hidden_files: &["/proc/keys".to_owned()],
        };
        let line = line(&binds);
        assert!(line.contains("seccomp:/run/seccomp-devices.json"), "{line}");
        assert!(
            line.starts_with("apptainer -s --config /run/apptainer-devices.conf exec"),
            "{line}"
        );
        assert!(
            line.ends_with(
                "--bind /dev/ttyUSB0:/dev/ttyUSB0:rw --bind /run/directories/0:/data/maps:ro --bind \
                 /run/empty:/proc/sys:ro --bind /run/empty:/dev/shm:ro --bind /run/empty:/dev/mqueue:ro --bind \
                 /run/nothing:/proc/keys:ro /run/image.sif /isms/doee-executor"
            ),
            "{line}"
        );
    }
}
