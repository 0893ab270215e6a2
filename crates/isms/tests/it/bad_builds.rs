//! Sources that attack their build: it fails alone, in its sandbox, and what served before serves on.

use std::{
    fs,
    path::Path,
    process::{Output, Stdio},
};

use crate::{
    harness::{Http, Platform, Process, descendants, eventually},
    project::{Project, c_doee, c_doee_with, manifest},
};

/// A platform whose project `site` serves `old`, which no attack may change.
fn with_site() -> Option<Platform> {
    let platform = Platform::start()?;
    platform.deploy(Project::c("site", "return say(call, \"old\");").path());
    assert_eq!(platform.get("/site/").text(), "old");
    Some(platform)
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn deploy(platform: &Platform, folder: &Path) -> Output {
    platform.isms(&["deploy", folder.to_str().unwrap()])
}

/// The next version of `site`, of one source file.
fn source(name: &str, text: &str) -> Project {
    let language = if name.ends_with(".cpp") {
        "\"cpp\""
    } else {
        "\"c\""
    };
    Project::new(&manifest("site", "").replace("\"c\"", language)).file(&format!("doees/main/{name}"), text)
}

fn builders(platform: &Platform) -> Vec<Process> {
    let mut processes = descendants(platform.pid());
    processes.retain(|process| process.command.first().is_some_and(|word| word == "doee-builder"));
    processes
}

/// The deployment is refused with these words; the old version serves on, and nothing is left of the build.
#[track_caller]
fn check_refused(platform: &Platform, project: &Project, says: &str) -> String {
    let output = deploy(platform, project.path());
    let error = said(&output);
    assert_eq!(output.status.code(), Some(3), "{error}");
    assert!(error.contains(says), "{error}");
    check_unharmed(platform);
    error
}

#[track_caller]
fn check_unharmed(platform: &Platform) {
    assert_eq!(platform.get("/site/").text(), "old");
    eventually("the builder's end", || {
        builders(platform).is_empty().then_some(())
    });
}

/// Files of the host that no build may see: of the system, of this platform, of others.
fn files_of_the_host(platform: &Platform) -> Vec<String> {
    let data = platform.data.path();
    let mut files: Vec<String> = [
        "/etc/passwd",
        "/etc/shadow",
        "/etc/hostname",
        "/etc/ssl/openssl.cnf",
        "/proc/meminfo",
        "/proc/cmdline",
        "/proc/kallsyms",
        "/proc/net/unix",
        "/proc/sys/kernel/core_pattern",
        "/sys/kernel/mm/transparent_hugepage/enabled",
        "/dev/zero",
        "/dev/mem",
        "/var/lib/dpkg/status",
    ]
    .map(str::to_owned)
    .into();
    let mut folders = vec![data.to_owned(), "/usr/local".into(), "/usr/src".into()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() && files.len() < 400 {
                files.extend(entry.path().to_str().map(str::to_owned));
            }
        }
    }
    files.push(std::env::current_exe().unwrap().to_str().unwrap().to_owned());
    files.retain(|file| Path::new(file).exists() && !file.contains(['"', '\\', '?']));
    for file in [
        "/etc/passwd",
        "/proc/meminfo",
        data.join("admin.token").to_str().unwrap(),
    ] {
        assert!(files.iter().any(|it| it == file), "{file} is on the host");
    }
    files
}

#[test]
fn a_build_sees_no_file_of_the_host_outside_of_the_toolchain() {
    let Some(platform) = with_site() else { return };
    let probes: String = files_of_the_host(&platform)
        .iter()
        .map(|file| format!("#if __has_include(\"{file}\")\n\"{file} \"\n#endif\n"))
        .collect();
    let scope = format!(
        "static const char seen[] =\n#if __has_include(<stdio.h>)\n\"stdio \"\n#endif\n\
        #if __has_include(\"/proc/self/status\")\n\"own status \"\n#endif\n{probes};"
    );
    let spy = Project::new(&manifest("spy", "")).file(
        "doees/main/main.c",
        c_doee_with(&scope, "return ISMS_OK;", "return say(call, seen);", ""),
    );
    platform.deploy(spy.path());
    assert_eq!(platform.get("/spy/").text(), "stdio own status ");
    check_unharmed(&platform);
}

#[test]
fn no_directive_of_compiler_assembler_or_linker_reads_a_file_of_the_host() {
    let Some(platform) = with_site() else { return };
    let key = platform.data.path().join("admin.token");
    let token = platform.admin_token();
    for file in ["/etc/passwd", "/etc/shadow", key.to_str().unwrap()] {
        let missing = "No such file or directory";
        for (text, says) in [
            (format!("#include \"{file}\"\n"), missing),
            (format!("#include \"../../../../../..{file}\"\n"), missing),
            (
                format!("__asm__(\".incbin \\\"{file}\\\"\");\n"),
                "file not found",
            ),
            (format!("__asm__(\".include \\\"{file}\\\"\");\n"), "can't open"),
            (
                format!("#pragma GCC dependency \"{file}\" shown\nnope;\n"),
                missing,
            ),
            // A diagnostic shows the line that it is about, of whatever file the source says that it is in.
            (format!("# 1 \"{file}\"\nnope nope nope;\n"), "nope"),
            // A linker's script, as it would stand in a library's place.
            (format!("INPUT({file})\nGROUP({file})\n"), "error"),
        ] {
            let error = check_refused(&platform, &source("main.c", &text), says);
            let shown = ["root:", "daemon:", &token].iter().any(|it| error.contains(it));
            assert!(!shown, "{error}");
        }
    }
}

#[test]
fn what_a_build_reads_of_itself_is_nothing_of_the_platform() {
    let Some(platform) = with_site() else { return };
    // The assembler repeats what it does not understand.
    for file in [
        "/proc/self/environ",
        "/proc/1/environ",
        "/proc/1/cmdline",
        "/proc/self/cgroup",
        "/proc/self/status",
    ] {
        let text = format!("__asm__(\".include \\\"{file}\\\"\");\n");
        let output = deploy(&platform, source("main.c", &text).path());
        let error = said(&output);
        assert_eq!(output.status.code(), Some(3), "{error}");
        let token = platform.admin_token();
        for secret in [&*token, "ISMS_", "isms-test-", "HOME=", "secret"] {
            assert!(!error.contains(secret), "{file}: {error}");
        }
    }
    check_unharmed(&platform);
}

#[test]
fn neither_a_directive_nor_a_file_in_the_tree_becomes_an_option_or_a_program_of_the_build() {
    let Some(platform) = with_site() else { return };
    let shout = "#include <unistd.h>\nint plugin_is_GPL_compatible;\n\
        __attribute__((constructor)) static void run(void) { write(2, \"IT\" \" RAN\\n\", 7); }\n\
        int plugin_init(void *a, void *b) { (void)a; (void)b; return 0; }\n\
        int onload(void *a) { (void)a; return 0; }\n";
    let plugin = crate::project::shared_object(shout, &[]);
    let script = "#!/bin/sh\necho IT RAN\n";
    let directives = "#pragma GCC plugin \"./plugin.so\"\n\
        #pragma GCC optimize (\"-fplugin=./plugin.so\")\n\
        __attribute__((optimize(\"-fplugin=./plugin.so\", \"-wrapper\", \"-specs=specs\"))) int one(void) { return 1; }\n";
    // A constructor of its own, which nothing may run before a worker does.
    let own =
        "__attribute__((constructor)) static void run(void) { (void)!write(2, \"IT\" \" RAN\\n\", 7); }\n";
    let text = c_doee_with(
        &format!("{directives}{own}"),
        "return ISMS_OK;",
        "return say(call, \"new\");",
        "",
    );
    let mut project = Project::new(&manifest("quiet", "")).file("doees/main/main.c", text);
    for name in [
        "cc1",
        "as",
        "ld",
        "gcc",
        "collect2",
        "lto-wrapper",
        "bin/as",
        "usr/bin/ld",
        "sub dir/as",
    ] {
        project = project.file(&format!("doees/main/{name}"), script);
    }
    for name in [
        "plugin.so",
        "liblto_plugin.so",
        "libm.so",
        "libc.so.6",
        "libgcc.a",
    ] {
        project = project.file(&format!("doees/main/{name}"), &plugin);
    }
    let specs = "*cc1:\n-fplugin=./plugin.so\n\n*link:\n-plugin ./plugin.so\n";
    let project = project.file("doees/main/specs", specs).file(
        "doees/main/a b -o c.c",
        "int two(void);\nint two(void) { return 2; }\n",
    );
    let output = deploy(&platform, project.path());
    let log = said(&output);
    assert!(output.status.success(), "{log}");
    assert!(log.contains("plugin") && !log.contains("IT RAN"), "{log}");
    assert_eq!(platform.get("/quiet/").text(), "new");
    for name in [
        "@args.c",
        "-wrapper",
        "a\nb.c",
        "main.h.gch",
        "a$(id).c",
        "a;b.c",
        "a\\b.c",
    ] {
        let project = source("main.c", &c_doee("return say(call, \"new\");"));
        let project = project.file(&format!("doees/main/{name}"), "-o /tmp/elsewhere\n");
        let error = check_refused(&platform, &project, "");
        assert!(
            error.contains("refused") || error.contains("folder"),
            "{name:?}: {error}"
        );
    }
}

#[test]
fn a_build_that_would_fill_memory_disk_or_log_fails_alone() {
    let Some(platform) = with_site() else { return };
    let space = "__asm__(\".data\\n.globl big\\nbig: .byte 1\\n.space 10737418240, 1\\n.text\");\n";
    let fill = "__asm__(\".data\\nbig: .rept 1000000\\n.fill 1024, 8, 1\\n.endr\\n.text\");\n";
    let org = "__asm__(\".data\\n.byte 1\\n.org 0x280000000\\n.byte 1\\n.text\");\n";
    let artifact = c_doee_with(
        "static volatile char big[70 << 20] = {1};",
        "return ISMS_OK;",
        "return say(call, &big[0]);",
        "",
    );
    let macros: String = (1..12)
        .map(|level| {
            let one = format!("M{} ", level - 1);
            format!("#define M{level} {}\n", one.repeat(10))
        })
        .collect();
    let macros = format!("#define M0 x\n{macros}\nM11\n");
    let templates = "template <int N> struct T { static const int v = T<N + 1>::v; };\nint bomb = T<0>::v;\n";
    let include = "#include \"main.c\"\n";
    let warnings: String = (0..2_000)
        .map(|line| format!("#warning a flood of words that nobody wants to read {line}\n"))
        .collect();
    for (name, text, says) in [
        ("main.c", space, "File size limit"),
        ("main.c", fill, "File size limit"),
        ("main.c", org, "File size limit"),
        ("main.c", &*artifact, "larger than 64 MiB"),
        ("main.c", &*macros, "more memory"),
        ("main.cpp", templates, "depth"),
        ("main.c", include, "nested"),
        ("main.c", &*warnings, "cut here"),
    ] {
        let error = check_refused(&platform, &source(name, text), says);
        assert!(error.len() < 40 * 1024, "{} bytes of words", error.len());
    }
}

#[test]
fn a_build_that_never_ends_is_gone_with_its_deployer_and_the_next_one_is_built() {
    let Some(platform) = with_site() else { return };
    // The compiler waits for its own words.
    let endless = source("main.c", "#include \"/proc/self/fd/1\"\n");
    let mut deployer = platform
        .command(&["deploy", endless.path().to_str().unwrap()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let builder = eventually("the builder", || builders(&platform).pop());
    eventually("the compiler", || {
        let compiles = |process: &Process| process.command.iter().any(|word| word.ends_with("main.c"));
        descendants(builder.pid).iter().any(compiles).then_some(())
    });
    deployer.kill().unwrap();
    deployer.wait().unwrap();
    check_unharmed(&platform);
    eventually("the end of the builder", || (!builder.is_alive()).then_some(()));
    platform.deploy(source("main.c", &c_doee("return say(call, \"new\");")).path());
    assert_eq!(platform.get("/site/").text(), "new");
}

/// A tar's entry with any length in its header.
fn entry(path: &str, kind: u8, len: &str, link: &str) -> Vec<u8> {
    let mut header = [0_u8; 512];
    header[..path.len()].copy_from_slice(path.as_bytes());
    header[100..107].copy_from_slice(b"0000644");
    header[124..124 + len.len()].copy_from_slice(len.as_bytes());
    header[156] = kind;
    header[157..157 + link.len()].copy_from_slice(link.as_bytes());
    header[257..265].copy_from_slice(b"ustar\x0000");
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    header.into()
}

#[test]
fn an_archive_with_links_ways_out_or_lengths_that_it_does_not_have_is_refused_whole() {
    let Some(platform) = with_site() else { return };
    let manifest = manifest("site", "");
    let mut whole = entry("project.toml", b'0', &format!("{:011o}", manifest.len()), "");
    whole.extend_from_slice(manifest.as_bytes());
    whole.resize(whole.len().next_multiple_of(512), 0);
    let none = "00000000000";
    let doer = platform.process("doer").unwrap();
    let resadmin = platform.process("resadmin").unwrap();
    for (attack, says) in [
        (entry("doees/main/main.c", b'2', none, "/etc/passwd"), "link"),
        (entry("doees/main/main.c", b'1', none, "project.toml"), "link"),
        (entry("doees/main/main.c", b'3', none, ""), "special file"),
        (entry("doees/main/main.c", b'6', none, ""), "special file"),
        (entry("doees/main/main.c", b'S', none, ""), "special file"),
        (
            entry("../../etc/cron.d/evil", b'0', none, ""),
            "does not stay below",
        ),
        (entry("/etc/cron.d/evil", b'0', none, ""), "does not stay below"),
        (entry("doees/main/a\nb.c", b'0', none, ""), "does not stay below"),
        // 8 GiB, and more than an octal number says.
        (
            entry("doees/main/main.c", b'0', "77777777777", ""),
            "ends in the middle",
        ),
        (
            entry("doees/main/main.c", b'0', "\u{7f}\u{7f}\u{7f}\u{7f}", ""),
            "damaged",
        ),
        (entry("project.toml", b'0', none, ""), "twice"),
        (entry("x", b'x', "77777777777", ""), "damaged"),
        // A compressed archive is none, so nothing is ever unpacked.
        (b"\x1f\x8b\x08\0\0\0\0\0\0\x03".repeat(200), "damaged"),
    ] {
        let mut archive = whole.clone();
        archive.extend_from_slice(&attack);
        archive.resize(
            archive.len().next_multiple_of(512) - usize::from(says == "ends in the middle"),
            0,
        );
        let bearer = format!("Bearer {}", platform.admin_token());
        let answer = Http::connect(platform.gate).send(
            "POST",
            "/api/v1/deployments",
            &[("authorization", &bearer)],
            &archive,
        );
        let text = answer.text();
        assert!(text.contains(says), "{says:?}: {} {text}", answer.status);
        assert!(!text.contains("\"deployed\""), "{text}");
        check_unharmed(&platform);
    }
    assert!(doer.is_alive() && resadmin.is_alive());
}
