//! The code in a worker attacks the Doer's ends of its control pair, its data pair and its output pipe.

use isms_protocol::{
    Header, Kind, Message, ProcessId, Service, dbriver, encode,
    worker::{CONTROL_FD, DATA_FD, Report},
};

use super::{Besieged, ENDLESS, HUGE_FRAME, endless_more, frames, garbage, ready};
use crate::{
    harness::{SOON, eventually},
    project::{Project, c_doee_with, manifest},
};

/// When the Doee's code attacks.
#[derive(Clone, Copy)]
pub(super) enum When {
    /// In `execute`, after an honest start, for the query `now`.
    Running,
    /// In a constructor of the binary, before the worker has reported that its Doee is initialized.
    Loading,
}

/// A Doee that sends `bytes` over and over, `times` times, on a descriptor that its executor inherited, and then
/// holds still: whatever ends it, it is not its own doing.
fn attacker(when: When, descriptor: i32, bytes: &[u8], times: usize) -> Project {
    attacker_with(
        when,
        bytes,
        &format!("for (int i = 0; i < {times}; i++) if (flood({descriptor})) break;"),
    )
}

/// The same with another way to send.
pub(super) fn attacker_with(when: When, bytes: &[u8], attack: &str) -> Project {
    let bytes: Vec<String> = bytes.iter().map(u8::to_string).collect();
    let scope = format!(
        "#include <errno.h>\n#include <poll.h>\n#include <sys/socket.h>\n\
        static const unsigned char bytes[] = {{{}}};\n\
        static int flood(int to) {{\n\
        for (size_t at = 0; at < sizeof bytes;) {{\n\
        ssize_t sent = send(to, bytes + at, sizeof bytes - at, MSG_NOSIGNAL);\n\
        if (sent > 0) {{ at += sent; continue; }}\n\
        struct pollfd room = {{ to, POLLOUT, 0 }};\n\
        if (sent == 0 || errno != EAGAIN || poll(&room, 1, -1) < 0) return -1;\n\
        }}\n\
        return 0;\n\
        }}\n\
        static void attack(void) {{ {attack} for (;;) pause(); }}\n",
        bytes.join(",")
    );
    let constructor = "__attribute__((constructor)) static void early(void) { attack(); }\n";
    let (scope, execute) = match when {
        When::Running => (
            scope,
            "if (query_is(call, \"now\")) attack(); return say(call, \"alive\");",
        ),
        When::Loading => (scope + constructor, "return say(call, \"alive\");"),
    };
    // One worker, so that the one that is looked at is the one that attacks; and much longer than it may take
    // to cut it off.
    let keys = format!("workers = {{ max = 1 }}\ntimeout_ms = {}", 3 * SOON.as_millis());
    Project::new(&manifest("attacker", &keys)).file(
        "doees/main/main.c",
        c_doee_with(&scope, "return ISMS_OK;", execute, ""),
    )
}

/// The caller of an attacker gets a clear error, its worker is cut off and replaced, nobody else notices.
#[track_caller]
pub(super) fn check_cut_off(besieged: &Besieged, attacker: &Project, says: &str) {
    let platform = &besieged.platform;
    platform.deploy(attacker.path());
    assert_eq!(platform.get("/attacker/").text(), "alive");
    let worker = platform.worker_of("attacker");
    besieged.serves_while(|| {
        let answer = platform.get("/attacker/?now");
        assert_eq!(answer.status, 502, "{}", answer.text());
        let detail = answer.json()["detail"].as_str().unwrap().to_owned();
        assert!(
            detail.starts_with("the worker was cut off: ") && detail.contains(says),
            "{detail:?} instead of {says:?}"
        );
        eventually("the worker's end", || (!worker.is_alive()).then_some(()));
        assert_eq!(platform.get("/attacker/").text(), "alive", "by another worker");
    });
}

/// A Doee that attacks while it is loaded: it never serves, and its caller learns that soon.
#[track_caller]
fn check_never_serves(besieged: &Besieged, attacker: &Project) {
    besieged.platform.deploy(attacker.path());
    besieged.serves_while(|| {
        let answer = besieged.platform.get("/attacker/");
        assert_eq!(answer.status, 502, "{}", answer.text());
        let detail = answer.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.starts_with("the worker was cut off: "), "{detail}");
    });
}

/// A host call in the name of a call that the worker does not run.
fn foreign_host_call() -> Message {
    let header = Header {
        operation: dbriver::Operation::Transaction as u16,
        parent: ProcessId::generate(),
        attempt: 1,
        call: 1,
        ..Header::new(Kind::Request, Service::Worker, Service::Dbriver)
    };
    Message::bare(header)
}

#[test]
fn the_attacks_on_zeromq_from_inside_a_worker_cost_its_own_call_only() {
    let Some(besieged) = Besieged::start() else { return };
    let closed = "it broke the protocol of its data channel: ";
    for (bytes, times) in [
        (&garbage(64 * 1024)[..], 1),
        (HUGE_FRAME, 1),
        (&endless_more(), ENDLESS),
        // The identity of somebody else, as ZeroMQ would take it.
        (&ready(b"kernel"), 1),
    ] {
        check_cut_off(&besieged, &attacker(When::Running, DATA_FD, bytes, times), closed);
    }
}

#[test]
fn a_worker_that_speaks_for_a_call_of_somebody_else_is_cut_off() {
    let Some(besieged) = Besieged::start() else { return };
    let begun = Header {
        process: ProcessId::generate(),
        ..Header::new(Kind::Begun, Service::Worker, Service::Doer)
    };
    for (message, says) in [
        (
            foreign_host_call(),
            "it asked on behalf of a call that it does not run",
        ),
        (Message::bare(begun), "it sent Begun out of turn"),
        (
            Message::bare(Header::new(Kind::Slots, Service::Doer, Service::Kernel)),
            "it sent Slots out of turn",
        ),
    ] {
        check_cut_off(
            &besieged,
            &attacker(When::Running, DATA_FD, &frames(&message), 1),
            says,
        );
    }
}

#[test]
fn a_worker_that_lies_on_its_control_channel_is_cut_off() {
    let Some(besieged) = Besieged::start() else { return };
    for (datagram, says) in [
        (garbage(1024), "its report cannot be read"),
        (
            encode(&Report::Initialized),
            "it reported an initialize that nobody asked for",
        ),
        (
            encode(&Report::Empty { abi: 1 }),
            "it reported twice that it is empty",
        ),
        (
            encode(&Report::Terminated),
            "it reported an end that nobody asked for",
        ),
        (garbage(64 * 1024), "its control channel cannot be read"),
    ] {
        check_cut_off(
            &besieged,
            &attacker(When::Running, CONTROL_FD, &datagram, 1),
            says,
        );
    }
    let flood = attacker(When::Running, CONTROL_FD, &garbage(1024), 100_000);
    check_cut_off(&besieged, &flood, "its report cannot be read");
    let nothing = format!("send({CONTROL_FD}, bytes, 0, MSG_NOSIGNAL);");
    let attacker = attacker_with(When::Running, b"x", &nothing);
    check_cut_off(&besieged, &attacker, "it closed its control channel");
}

#[test]
fn a_worker_that_sends_descriptors_to_the_doer_is_cut_off() {
    let Some(besieged) = Besieged::start() else { return };
    let send = format!(
        "union {{ char room[CMSG_SPACE(64 * sizeof(int))]; struct cmsghdr align; }} control;\n\
        memset(&control, 0, sizeof control);\n\
        struct iovec part = {{ (void *)bytes, sizeof bytes }};\n\
        struct msghdr message = {{ 0 }};\n\
        message.msg_iov = &part; message.msg_iovlen = 1;\n\
        message.msg_control = &control; message.msg_controllen = sizeof control;\n\
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);\n\
        header->cmsg_level = SOL_SOCKET; header->cmsg_type = SCM_RIGHTS; header->cmsg_len = CMSG_LEN(64 * sizeof(int));\n\
        for (int i = 0; i < 64; i++) ((int *)CMSG_DATA(header))[i] = {DATA_FD};\n\
        sendmsg({CONTROL_FD}, &message, MSG_NOSIGNAL);"
    );
    let attacker = attacker_with(When::Running, &encode(&Report::Initialized), &send);
    check_cut_off(&besieged, &attacker, "its control channel cannot be read");
}

#[test]
fn a_doee_that_attacks_while_it_is_loaded_never_serves_and_its_caller_learns_why() {
    let Some(besieged) = Besieged::start() else { return };
    for (descriptor, bytes) in [
        (DATA_FD, garbage(64 * 1024)),
        (DATA_FD, frames(&foreign_host_call())),
        (CONTROL_FD, garbage(1024)),
        (CONTROL_FD, encode(&Report::Empty { abi: 1 })),
    ] {
        check_never_serves(&besieged, &attacker(When::Loading, descriptor, &bytes, 1));
    }
}

#[test]
fn garbage_on_its_output_harms_not_even_the_call_and_what_it_prints_later_is_kept() {
    let Some(besieged) = Besieged::start() else { return };
    let platform = &besieged.platform;
    let print = "static int calls; if (calls++ > 0) { write(1, \"a clean line\\n\", 13); return; }\n\
        for (int i = 0; i < 64; i++) if (write(1 + i % 2, bytes, sizeof bytes) < 0) return; return;";
    platform.deploy(attacker_with(When::Running, &garbage(64 * 1024), print).path());
    let call = || {
        let answer = platform.get("/attacker/?now");
        assert_eq!((answer.status, answer.text().as_str()), (200, "alive"));
    };
    besieged.serves_while(|| {
        call();
        // What is left of the garbage may use up what the next call may print.
        eventually("the clean line in the log", || {
            call();
            let log = platform.isms(&["logs", "attacker/main", "--tail", "10"]).stdout;
            String::from_utf8_lossy(&log)
                .contains("a clean line")
                .then_some(())
        });
    });
}
