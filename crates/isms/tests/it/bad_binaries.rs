//! Shared objects that somebody has forged: refused when they are uploaded, or a clear error of their own Doee's when
//! they are loaded in its sandbox. Nobody else notices.

mod forge;

use std::fs;

use self::forge::{Elf, LOAD, NOTE, STACK, dynamic};
use crate::{
    harness::{Platform, Process, ROLES, descendants},
    project::{Project, c_doee, c_doee_with, manifest, shared_object},
};

/// A platform with a neighbour that must go on whatever is uploaded beside it.
struct Upload {
    platform: Platform,
    roles: Vec<Process>,
}

impl Upload {
    fn start() -> Option<Upload> {
        let platform = Platform::start()?;
        platform.deploy(Project::c("neighbour", "return say(call, \"fine\");").path());
        let roles = roles(&platform);
        Some(Upload { platform, roles })
    }

    fn deploy(&self, binary: &[u8]) -> (Option<i32>, String) {
        let manifest = manifest("forged", "").replace("source = \"doees/main\"", "binary = \"main.so\"");
        let project = Project::new(&manifest).file("main.so", binary);
        let output = self.platform.isms(&["deploy", project.path().to_str().unwrap()]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), said)
    }

    /// Is not taken, with these words; what ran before still runs.
    fn refused(&self, what: &str, binary: &[u8], words: &str) {
        let (code, said) = self.deploy(binary);
        assert_eq!(code, Some(3), "{what}: {said}");
        assert!(said.contains("main") && said.contains(words), "{what}: {said}");
        assert_eq!(self.platform.get("/forged/").text(), "genuine", "{what}");
        self.nobody_noticed(what);
    }

    /// Is taken, and its call fails with one of these words.
    fn fails_inside(&self, what: &str, binary: &[u8], words: &[&str]) {
        let (code, said) = self.deploy(binary);
        assert_eq!(code, Some(0), "{what}: {said}");
        let answer = self.platform.get("/forged/");
        assert!(
            [500, 502, 504].contains(&answer.status),
            "{what}: {}",
            answer.text()
        );
        let detail = answer.json()["detail"].as_str().unwrap_or_default().to_owned();
        assert!(words.iter().any(|word| detail.contains(word)), "{what}: {detail}");
        self.nobody_noticed(what);
    }

    /// Is taken, and its call answers so.
    fn answers(&self, what: &str, binary: &[u8], expected: &str) {
        let (code, said) = self.deploy(binary);
        assert_eq!(code, Some(0), "{what}: {said}");
        assert_eq!(self.platform.get("/forged/").text(), expected, "{what}");
        self.nobody_noticed(what);
    }

    fn nobody_noticed(&self, what: &str) {
        let answer = self.platform.get("/neighbour/");
        assert_eq!((answer.status, answer.text().as_str()), (200, "fine"), "{what}");
        let died: Vec<_> = self.roles.iter().filter(|role| !role.is_alive()).collect();
        assert!(died.is_empty(), "{what}: {died:?}");
    }
}

fn roles(platform: &Platform) -> Vec<Process> {
    let all = descendants(platform.pid());
    all.into_iter()
        .filter(|process| ROLES.iter().any(|role| process.is_role(role)))
        .collect()
}

fn genuine(options: &[&str]) -> Vec<u8> {
    shared_object(&c_doee("return say(call, \"genuine\");"), options)
}

/// A genuine one, changed.
fn forged(change: impl FnOnce(&mut Elf)) -> Vec<u8> {
    forged_from(genuine(&[]), change)
}

fn forged_from(genuine: Vec<u8>, change: impl FnOnce(&mut Elf)) -> Vec<u8> {
    let mut elf = Elf(genuine);
    change(&mut elf);
    elf.0
}

#[test]
fn binaries_with_forged_headers_are_refused_when_they_are_uploaded() {
    let Some(upload) = Upload::start() else { return };
    let original = genuine(&[]);
    upload.answers("an honest one", &original, "genuine");
    let headers = "program headers are damaged";
    let sections = "cut or damaged";
    let cases: [(&str, Vec<u8>, &str); 18] = [
        ("an empty file", Vec::new(), "not a 64-bit ELF file"),
        ("half a header", original[..40].to_vec(), "not a 64-bit ELF file"),
        ("half a file", original[..original.len() / 2].to_vec(), "damaged"),
        (
            "all but the last byte",
            original[..original.len() - 1].to_vec(),
            sections,
        ),
        ("32-bit", forged(|elf| elf.0[4] = 1), "not a 64-bit ELF file"),
        ("big-endian", forged(|elf| elf.0[5] = 2), "not a 64-bit ELF file"),
        (
            "another architecture",
            forged(|elf| elf.put(18, &[243, 0])),
            "not for this machine",
        ),
        (
            "a program",
            forged(|elf| elf.put(16, &[2, 0])),
            "program or object file",
        ),
        (
            "program headers far away",
            forged(|elf| elf.put(32, &[0xff; 8])),
            headers,
        ),
        (
            "program headers beyond the end",
            forged(|elf| elf.put(32, &(1_u64 << 40).to_le_bytes())),
            headers,
        ),
        (
            "65,535 program headers",
            forged(|elf| elf.put(56, &[0xff; 2])),
            headers,
        ),
        (
            "section headers far away",
            forged(|elf| elf.put(40, &[0xff; 8])),
            sections,
        ),
        (
            "section headers beyond the end",
            forged(|elf| elf.put(40, &(1_u64 << 40).to_le_bytes())),
            sections,
        ),
        (
            "an interpreter",
            forged(|elf| elf.segment(NOTE, 0).set_kind(3)),
            "program or object file",
        ),
        (
            "a segment longer than the file",
            forged(|elf| elf.segment(LOAD, 1).set_file_len(1 << 30)),
            headers,
        ),
        (
            "segments on top of each other",
            forged(|elf| {
                let address = elf.segment(LOAD, 0).address();
                elf.segment(LOAD, 1).set_address(address);
            }),
            headers,
        ),
        (
            "a segment to write and run",
            forged(|elf| elf.segment(LOAD, 1).set_flags(7)),
            "both written and run",
        ),
        (
            "a stack to run",
            genuine(&["-z", "execstack"]),
            "stack that is executable",
        ),
    ];
    for (what, binary, words) in cases {
        upload.refused(what, &binary, words);
    }
    let by_hand = forged(|elf| elf.segment(STACK, 0).set_flags(7));
    upload.refused("a stack to run, by hand", &by_hand, "stack that is executable");
    let wraps = forged(|elf| elf.segment(LOAD, 3).set_memory_len(u64::MAX));
    upload.refused("a segment around the end of memory", &wraps, headers);
}

#[test]
fn binaries_that_mislead_the_loader_fail_alone() {
    let Some(upload) = Upload::start() else { return };
    let crash = ["SIGSEGV", "SIGBUS", "SIGFPE"];
    let no_room = ["failed to map", "cannot map", "annot allocate memory", "SIGSEGV"];
    let huge = forged(|elf| elf.segment(LOAD, 3).set_memory_len(1 << 45));
    upload.fails_inside("a segment of 32 TiB", &huge, &no_room);
    let astray = 0x7fff_0000_0000;
    let init = forged(|elf| elf.set_dynamic(dynamic::INIT_ARRAY, astray));
    upload.fails_inside("constructors that lie nowhere", &init, &crash);
    let init = forged(|elf| elf.set_dynamic(dynamic::INIT, astray));
    upload.fails_inside("an initialisation that lies nowhere", &init, &crash);
    let many = forged(|elf| elf.set_dynamic(dynamic::INIT_ARRAY_LEN, 1 << 20));
    upload.fails_inside("constructors without end", &many, &crash);
    let names = forged(|elf| elf.set_dynamic(dynamic::STRINGS, astray));
    upload.fails_inside("names that lie nowhere", &names, &crash);
    let relocations = forged(|elf| elf.set_dynamic(dynamic::RELOCATIONS_LEN, 1 << 40));
    upload.fails_inside("relocations without end", &relocations, &crash);
    let relocation = forged(|elf| {
        let at = elf.dynamic_offset(dynamic::RELOCATIONS);
        elf.put(at, &0xffff_8000_0000_0000_u64.to_le_bytes());
    });
    upload.fails_inside("a relocation in the kernel's memory", &relocation, &crash);
    let not_found = "does not export";
    let style = |style| genuine(&[style]);
    let none = forged_from(style("-Wl,--hash-style=sysv"), |elf| {
        let at = elf.dynamic_offset(dynamic::HASH);
        elf.put(at, &[0; 4]);
    });
    upload.fails_inside("a table of names without a bucket", &none, &[not_found, crash[2]]);
    let buckets = forged_from(style("-Wl,--hash-style=sysv"), |elf| {
        let at = elf.dynamic_offset(dynamic::HASH);
        let count = u32::from_le_bytes(elf.0[at..at + 4].try_into().unwrap()) as usize;
        elf.put(at + 8, &vec![0xff; 4 * count]);
    });
    upload.fails_inside("buckets that lead nowhere", &buckets, &[not_found, crash[0]]);
    let filter = forged_from(style("-Wl,--hash-style=gnu"), |elf| {
        let at = elf.dynamic_offset(dynamic::GNU_HASH);
        elf.put(at, &[0; 4]);
    });
    upload.fails_inside("a table by GNU without a bucket", &filter, &[not_found, crash[2]]);
    let buckets = forged_from(style("-Wl,--hash-style=gnu"), |elf| {
        let at = elf.dynamic_offset(dynamic::GNU_HASH);
        let word = |number: usize| {
            let at = at + 4 * number;
            u32::from_le_bytes(elf.0[at..at + 4].try_into().unwrap()) as usize
        };
        let (count, filter) = (word(0), word(2));
        // All bits of its filter are set, so that the buckets are looked at.
        elf.put(at + 16, &vec![0xff; 8 * filter + 4 * count]);
    });
    upload.fails_inside(
        "buckets by GNU that lead nowhere",
        &buckets,
        &[not_found, crash[0]],
    );
}

#[test]
fn binaries_that_ask_for_libraries_of_the_host_do_not_get_them() {
    let Some(upload) = Upload::start() else { return };
    // Whoever loads it leaves a mark.
    let planted = tempfile::tempdir().unwrap();
    fs::set_permissions(
        planted.path(),
        std::os::unix::fs::PermissionsExt::from_mode(0o777),
    )
    .unwrap();
    let folder = planted.path().to_str().unwrap();
    let mark = planted.path().join("mark");
    let source = format!(
        "#include <fcntl.h>\nint planted(void) {{ return 1; }}\n__attribute__((constructor)) static void leave(void) \
         {{ open(\"{}\", O_CREAT | O_WRONLY, 0666); }}\n",
        mark.display()
    );
    let doee = c_doee_with(
        "int planted(void);",
        "return ISMS_OK;",
        "return say(call, planted() ? \"taken\" : \"\");",
        "",
    );
    let library = planted.path().join("libplanted.so");
    let odd = [
        "/etc/passwd",
        "../../../../etc/passwd",
        "/proc/self/mem",
        "/dev/stdin",
        "/proc/self/exe",
        "",
    ];
    let in_folder = library.to_str().unwrap();
    for name in odd.into_iter().chain(["libplanted.so", in_folder]) {
        fs::write(
            &library,
            shared_object(&source, &[&format!("-Wl,-soname,{name}")]),
        )
        .unwrap();
        for options in [
            vec![],
            vec![format!("-Wl,-rpath,{folder}")],
            vec![
                format!("-Wl,-rpath,{folder}"),
                "-Wl,--disable-new-dtags".to_owned(),
            ],
            vec![format!("-Wl,-rpath,$ORIGIN/../../..{folder}")],
        ] {
            let mut options: Vec<&str> = options.iter().map(String::as_str).collect();
            options.push(in_folder);
            let binary = shared_object(&doee, &options);
            let what = format!("{name} {options:?}");
            upload.fails_inside(
                &what,
                &binary,
                &[
                    "cannot open shared object file",
                    "cannot be loaded",
                    "invalid ELF header",
                    "cannot read file data",
                    "object file has no",
                    "cannot dynamically load",
                ],
            );
            assert!(!mark.exists(), "{what}");
        }
    }
}

#[test]
fn a_resolver_that_attacks_while_the_loader_asks_it_is_confined() {
    let Some(upload) = Upload::start() else { return };
    // By system calls, because no library is ready for a resolver.
    let resolver = |attack: &str| {
        let scope = format!(
            "#include <errno.h>\n#include <fcntl.h>\n#include <sys/syscall.h>\nstatic char seen[200];\n\
             static long ask(long number, long a, long b, long c) {{\n  long result;\n  \
             register long r10 __asm__(\"r10\") = 0;\n  \
             __asm__ volatile(\"syscall\" : \"=a\"(result) : \"a\"(number), \"D\"(a), \"S\"(b), \"d\"(c), \"r\"(r10) : \
             \"rcx\", \"r11\", \"memory\");\n  return result;\n}}\n\
             static void note(long result) {{ char *at = seen; while (*at) at++; *at++ = result >= 0 ? '!' : \
             result == -EPERM ? 'p' : result == -ENOENT ? 'n' : result == -ESRCH ? 's' : '?'; *at = 0; }}\n\
             static int plain(void) {{ return 1; }}\n\
             static int (*resolve(void))(void) {{ {attack} return plain; }}\n\
             int resolved(void) __attribute__((ifunc(\"resolve\")));"
        );
        let doee = c_doee_with(
            &scope,
            "return ISMS_OK;",
            "return say(call, resolved() ? seen : \"\");",
            "",
        );
        shared_object(&doee, &["-O0"])
    };
    let attack = "note(ask(SYS_open, (long)\"/etc/passwd\", 0, 0)); note(ask(SYS_socket, 2, 1, 0)); \
        note(ask(SYS_kill, -1, 9, 0)); note(ask(SYS_fork, 0, 0, 0)); note(ask(SYS_execve, (long)\"/isms/doee-executor\", \
        0, 0)); note(ask(SYS_ptrace, 0, 0, 0)); note(ask(SYS_mount, (long)\"/\", (long)\"/tmp\", 0));";
    if cfg!(not(target_arch = "x86_64")) {
        eprintln!("SKIPPED: the resolver is written for x86-64");
        return;
    }
    upload.answers("a resolver that attacks", &resolver(attack), "npspppp");
    upload.fails_inside(
        "a resolver that crashes",
        &resolver("*(volatile int *)8 = 1;"),
        &["SIGSEGV"],
    );
    upload.fails_inside(
        "a resolver that ends",
        &resolver("ask(SYS_exit_group, 0, 0, 0);"),
        &["exited"],
    );
    upload.fails_inside(
        "a resolver that never answers",
        &resolver("for (;;) ask(SYS_pause, 0, 0, 0);"),
        &["did not load"],
    );
}
