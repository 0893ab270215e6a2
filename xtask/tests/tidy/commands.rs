//! What CI and newcomers run, on a machine whose programs the test made up.

use std::{
    env,
    ffi::OsStr,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::root;

/// Debian's package manager: notes what it is told, and installs the compilers.
const APT: &str = "[ \"$1\" = --version ] && exit\n\
                   echo \"$@\" >> ~/apt.log\n\
                   [ \"$1\" = install ] && /bin/ln -s /bin/true ~/bin/cc && /bin/ln -s /bin/true ~/bin/c++\n\
                   exit 0";
/// A toolchain that does as it is told, in no time; it has no nextest.
const CARGO: &str = "[ \"$1\" != nextest ]";

struct Machine {
    home: PathBuf,
}

impl Machine {
    /// A machine with these programs, each a script for sh, in a home of its own.
    fn new(name: &str, programs: &[(&str, &str)]) -> Machine {
        let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let _ = fs::remove_dir_all(&home);
        fs::create_dir_all(home.join("bin")).unwrap();
        for (program, script) in programs {
            let path = home.join("bin").join(program);
            fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        Machine { home }
    }

    /// A command that has nobody to ask.
    fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("HOME", &self.home)
            .env("PATH", self.home.join("bin"))
            .stdin(Stdio::null());
        command
    }

    /// Whether `cargo xtask` succeeded, and what it wrote.
    fn xtask(&self, arguments: &[&str]) -> (bool, String, String) {
        let mut command = self.command(env!("CARGO_BIN_EXE_xtask"));
        let target = self.home.join("target");
        let output = command
            .args(arguments)
            .env("CARGO_TARGET_DIR", target)
            .output()
            .unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.success(), text(output.stdout), text(output.stderr))
    }

    fn apt_log(&self) -> String {
        fs::read_to_string(self.home.join("apt.log")).unwrap_or_default()
    }
}

#[test]
fn ci_runs_cargo_xtask_test_with_a_target_directory_outside_of_the_clone() {
    let cargo = "echo \"$CARGO_TARGET_DIR\"\necho \"$PWD\"\necho \"$@\"";
    let machine = Machine::new("ci", &[("cargo", cargo)]);
    let mut command = machine.command(root().join(".ci/run"));
    let mut folders = vec![machine.home.join("bin")];
    folders.extend(env::split_paths(&env::var_os("PATH").unwrap()));
    let output = command
        .current_dir("/")
        .env("PATH", env::join_paths(folders).unwrap())
        .output()
        .unwrap();
    let output = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<&str> = output.lines().collect();
    let [target, folder, arguments] = lines[..] else {
        panic!("{output}")
    };
    assert!(Path::new(target).starts_with(&machine.home), "{target}");
    assert_eq!(Path::new(folder), root().canonicalize().unwrap());
    assert_eq!(arguments, "xtask test");
}

#[test]
fn root_and_sudo_without_a_password_install_what_is_missing_and_say_what() {
    let root = [("id", "echo 0"), ("env", "shift\nexec \"$@\"")];
    let sudo = [
        ("id", "echo 1000"),
        ("env", "shift\nexec \"$@\""),
        ("sudo", "shift\nexec \"$@\""),
        ("true", ""),
    ];
    for (name, privileged) in [("as-root", &root[..]), ("with-sudo", &sudo[..])] {
        // Without cargo, so that it ends when the tools are there.
        let machine = Machine::new(name, &[privileged, &[("apt-get", APT)]].concat());
        let (_, _, stderr) = machine.xtask(&["demo", "--once"]);
        let said = "installing a C compiler, a C++ compiler: apt-get install gcc libc6-dev g++\n";
        assert!(stderr.contains(said), "{stderr}");
        assert!(stderr.contains("[1/5] tools: done"), "{stderr}");
        assert_eq!(
            machine.apt_log(),
            "update -q\ninstall -q -y --no-install-recommends gcc libc6-dev g++\n"
        );
    }
}

#[test]
fn whoever_may_not_install_is_told_the_exact_command() {
    let machine = Machine::new(
        "as-nobody",
        &[("id", "echo 1000"), ("apt-get", APT), ("sudo", "exit 1")],
    );
    let by_hand =
        "on Debian or Ubuntu install with: sudo apt-get update && sudo apt-get install -y gcc libc6-dev g++";
    let (success, _, stderr) = machine.xtask(&["demo", "--once"]);
    assert!(!success);
    let error = format!("error: missing: a C compiler, a C++ compiler; {by_hand}\n");
    assert!(stderr.ends_with(&error), "{stderr}");
    let (success, stdout, stderr) = machine.xtask(&["test"]);
    assert!(!success);
    assert!(stderr.contains(by_hand), "{stderr}");
    assert!(stdout.ends_with("0 passed, 1 failed, 0 skipped\n"), "{stdout}");
    assert_eq!(machine.apt_log(), "");
}

#[test]
fn the_tests_show_their_steps_and_end_with_the_count_and_what_to_do_next() {
    let machine = Machine::new(
        "steps",
        &[
            ("cargo", CARGO),
            ("cc", ""),
            ("c++", ""),
            ("python3", ""),
            ("mksquashfs", ""),
            ("sh", "exec /bin/sh \"$@\""),
        ],
    );
    for binary in [
        "debug/isms",
        "executor/debug/doee-executor",
        "executor/debug/doee-builder",
    ] {
        let path = machine.home.join("target").join(binary);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "").unwrap();
    }
    let (success, stdout, stderr) = machine.xtask(&["test"]);
    assert!(success, "{stderr}");
    let titles = [
        "tools",
        "format",
        "clippy",
        "xtask and tidy",
        "build",
        "tests",
        "documentation tests",
        "tests in a virtual machine",
    ];
    for (index, title) in titles.iter().enumerate() {
        let step = format!("[{}/8] {title}: done in ", index + 1);
        assert!(stderr.contains(&step), "{step} in {stderr}");
    }
    assert!(
        stderr.contains("no Apptainer, so tests on it will skip: "),
        "{stderr}"
    );
    assert!(stderr.contains("next: `cargo xtask demo`"), "{stderr}");
    // Nothing of what a virtual machine needs is there.
    assert!(stdout.starts_with("skipped: guest: "), "{stdout}");
    assert!(stdout.ends_with("\n0 passed, 0 failed, 1 skipped\n"), "{stdout}");
}

#[test]
fn an_image_is_made_of_the_current_packages_and_equal_packages_give_equal_bytes() {
    // Packages of one version; apt tells the place of those that are not there, and fetches them.
    let apt = "shift 4\n\
               [ \"$1\" = --print-uris ] && shift && print=1\n\
               for name in \"$@\"; do\n\
               file=${name}_2_all.deb\n\
               [ -e $file ] && continue\n\
               [ \"$print\" ] && echo \"'http://mirror/$file' $file 5 SHA256:0\" || echo \"$name\" > $file\n\
               done";
    // Unpacks a file that is named as the package and holds what it holds.
    let dpkg_deb = "read name < $2 && /bin/cp $2 $3/$name";
    // Packs the names of all files and what they hold, after a header of the right length.
    let mksquashfs = "[ \"$1\" = -version ] && exit\n\
                      echo packed >> ~/packed.log\n\
                      { echo -n hsqs && /usr/bin/printf %092d 0 && cd $1 && /usr/bin/find . -type f | /usr/bin/sort |\n\
                      /usr/bin/xargs /usr/bin/head; } > $2";
    let programs = [
        ("cargo", CARGO),
        ("cc", ""),
        ("sh", "exec /bin/sh \"$@\""),
        ("apt-get", apt),
        ("dpkg-deb", dpkg_deb),
        ("mksquashfs", mksquashfs),
    ];
    let machine = Machine::new("image", &programs);
    let target = machine.home.join("target");
    let executor = target.join("executor/release/doee-executor");
    fs::create_dir_all(executor.parent().unwrap()).unwrap();
    fs::write(&executor, "the executor").unwrap();
    let packages = target.join("images/packages");
    fs::create_dir_all(&packages).unwrap();
    fs::write(packages.join("libc6_1_all.deb"), "outdated").unwrap();
    let image = target.join("images/minimal.sif");
    let (success, stdout, stderr) = machine.xtask(&["image", "minimal"]);
    assert!(success, "{stderr}");
    assert_eq!(stdout, format!("{}\n", image.display()));
    assert!(stderr.contains("[3/3] minimal: done in "), "{stderr}");
    assert!(stderr.contains("next: copy one into your project"), "{stderr}");
    let first = fs::read(&image).unwrap();
    let text = String::from_utf8_lossy(&first);
    for part in [
        "./isms/doee-executor",
        "the executor",
        "./libc6",
        "./libgcc-s1",
        "./libstdc++6",
    ] {
        assert!(text.contains(part), "{part}");
    }
    assert!(!text.contains("outdated") && !packages.join("libc6_1_all.deb").exists());
    let packed = || {
        fs::read_to_string(machine.home.join("packed.log"))
            .unwrap()
            .lines()
            .count()
    };
    assert!(machine.xtask(&["image", "minimal"]).0);
    assert_eq!((fs::read(&image).unwrap() == first, packed()), (true, 1));
    fs::write(&executor, "another executor").unwrap();
    assert!(machine.xtask(&["image", "minimal"]).0);
    assert_eq!((fs::read(&image).unwrap() == first, packed()), (false, 2));
    fs::write(&executor, "the executor").unwrap();
    assert!(machine.xtask(&["image", "minimal"]).0);
    assert_eq!((fs::read(&image).unwrap() == first, packed()), (true, 3));
    let (success, _, stderr) = machine.xtask(&["image", "maximal"]);
    assert!(!success && stderr.starts_with("usage:"), "{stderr}");
}
