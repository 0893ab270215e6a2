//! The executor is taken over: the code in a worker speaks the executor's protocol itself, word for word, and lies.
//!
//! Whatever it says of other calls, in other names, or without end: it is cut off, nobody else notices, and no process
//! of the platform grows by it.

use isms_protocol::{
    Flags, Header, Kind, Service, WireError,
    dbriver::{self, Statement, Transaction},
    doer::InvocationReply,
    encode, gate,
    kernel::StreamCredit,
    limits::CHUNK_LEN_MAX,
    resadmin,
    worker::{self, DATA_FD, LogLevel, LogLine, STATUS_WORDS},
};

use super::Besieged;
use crate::{
    harness::{SOON, eventually},
    project::{Project, c_doee_with, manifest},
};

/// What a Doee needs to speak as its executor: `tell` sends a message of the data channel, `mine` and `attempt` are the
/// running call's, `CALL` its number on the channel, the second that its worker gets.
fn tongue() -> String {
    let header = Header::new(Kind::Request, Service::Worker, Service::Doer).encode();
    let bytes = |bytes: &[u8]| bytes.iter().map(u8::to_string).collect::<Vec<_>>().join(",");
    let reply = encode(&InvocationReply {
        status: 200,
        ..InvocationReply::default()
    });
    let credit = encode(&StreamCredit { bytes: u32::MAX });
    let error = encode(&WireError::new(
        isms_protocol::ErrorCode::Forbidden,
        "by order of the kernel",
    ));
    let line = |len| {
        encode(&LogLine {
            level: LogLevel::Info,
            text: "x".repeat(len),
        })
    };
    let transaction = encode(&Transaction {
        database: "store".to_owned(),
        statements: vec![Statement {
            sql: "delete from items".to_owned(),
            parameters: Vec::new(),
            rows_demanded: None,
        }],
    });
    let forged_call = encode(&worker::DoeeCall {
        doee: "main".to_owned(),
        headers: vec![("isms-planned".to_owned(), b"now".to_vec().into())],
        ..worker::DoeeCall::default()
    });
    let endless_call = encode(&worker::DoeeCall {
        doee: "main".to_owned(),
        body_len: u64::MAX,
        ..worker::DoeeCall::default()
    });
    let constants = [
        ("REQUEST", Kind::Request as u32),
        ("REPLY", Kind::Reply as u32),
        ("ERROR", Kind::Error as u32),
        ("EVENT", Kind::Event as u32),
        ("CANCEL", Kind::Cancel as u32),
        ("CREDIT", Kind::Credit as u32),
        ("CHUNK", Kind::StreamChunk as u32),
        ("END", Kind::StreamEnd as u32),
        ("HEARTBEAT", Kind::Heartbeat as u32),
        ("STREAM", Flags::STREAM.0.into()),
        ("TO_CALLER", Flags::TO_CALLER.0.into()),
        ("DOER", Service::Doer as u32),
        ("DBRIVER", Service::Dbriver as u32),
        ("RESADMIN", Service::Resadmin as u32),
        ("GATE", Service::Gate as u32),
        ("COMMSERVER", Service::Commserver as u32),
        ("KERNEL", Service::Kernel as u32),
        ("TRANSACTION", dbriver::Operation::Transaction as u32),
        ("DROP", dbriver::Operation::Drop as u32),
        ("DELETE_PROJECT", resadmin::Operation::DeleteProject as u32),
        ("LOG_OF_OTHERS", gate::Operation::Log as u32),
        ("LOG", worker::Operation::Log as u32),
        ("CALL", 2),
        ("INVOKE", worker::Operation::Call as u32),
        ("CHUNK_LEN_MAX", CHUNK_LEN_MAX as u32),
        ("STATUS_LEN", (STATUS_WORDS * 4) as u32),
    ];
    let constants: Vec<_> = constants
        .iter()
        .map(|(name, value)| format!("{name} = {value}"))
        .collect();
    let blobs = [
        ("header", &header[..]),
        ("reply", &reply),
        ("credit", &credit),
        ("error_body", &error),
        ("short_line", &line(1)),
        ("long_line", &line(50_000)),
        ("transaction", &transaction),
        ("forged_call", &forged_call),
        ("endless_call", &endless_call),
    ];
    let blobs: String = blobs
        .iter()
        .map(|(name, blob)| format!("static const unsigned char {name}[] = {{{}}};\n", bytes(blob)))
        .collect();
    format!(
        r#"#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdint.h>
#include <sys/socket.h>
enum {{ {constants} }};
{blobs}
static unsigned char mine[16], nobody[16];
static uint32_t attempt;
static void read_id(const char *from, size_t len, unsigned char *id) {{
    size_t digits = 0;
    memset(id, 0, 16);
    for (size_t i = 0; i < len && digits < 32; i++) {{
        if (from[i] == '-') continue;
        unsigned digit = from[i] <= '9' ? from[i] - '0' : from[i] - 'a' + 10;
        id[digits / 2] |= digits % 2 ? digit : digit << 4;
        digits++;
    }}
}}
static void learn(isms_call *call) {{
    const isms_request *request;
    if (isms_request_get(call, &request) != ISMS_OK) abort();
    read_id(request->invocation_id.data, request->invocation_id.len, mine);
    attempt = request->attempt;
}}
static int put(const void *from, size_t len) {{
    for (size_t at = 0; at < len;) {{
        ssize_t sent = send({DATA_FD}, (const char *)from + at, len - at, MSG_NOSIGNAL);
        if (sent > 0) {{ at += sent; continue; }}
        struct pollfd room = {{ {DATA_FD}, POLLOUT, 0 }};
        if (sent == 0 || errno != EAGAIN || poll(&room, 1, -1) < 0) return -1;
    }}
    return 0;
}}
static size_t frame(unsigned char *to, int more, const void *from, size_t len) {{
    to[0] = 2 | more;
    for (int i = 0; i < 8; i++) to[1 + i] = (unsigned char)((uint64_t)len >> (56 - 8 * i));
    if (len) memcpy(to + 9, from, len);
    return 9 + len;
}}
static int tell(int kind, int flags, int target, int operation, uint64_t number, const unsigned char *parent,
                const void *body, size_t body_len, const void *raw, size_t raw_len) {{
    static __thread unsigned char message[128 * 1024];
    unsigned char head[sizeof header];
    uint16_t short_operation = (uint16_t)operation;
    memcpy(head, header, sizeof head);
    head[2] = kind; head[3] = flags; head[6] = target;
    memcpy(head + 8, &short_operation, 2); memcpy(head + 12, &attempt, 4); memcpy(head + 24, &number, 8);
    memcpy(head + 40, mine, 16);
    memcpy(head + 56, parent, 16);
    size_t len = frame(message, 1, head, sizeof head);
    len += frame(message + len, 1, body, body_len);
    len += frame(message + len, 0, raw, raw_len);
    return put(message, len);
}}
#define SAY(kind, flags, number, body) tell(kind, flags, DOER, 0, number, nobody, body, sizeof body, NULL, 0)
#define BARE(kind, flags, number) tell(kind, flags, DOER, 0, number, nobody, NULL, 0, NULL, 0)
#define ASK(flags, target, operation, number, parent) \
    tell(REQUEST, flags, target, operation, number, parent, NULL, 0, transaction, sizeof transaction)
static void hold(void) {{ for (;;) pause(); }}
"#,
        constants = constants.join(", "),
    )
}

/// A Doee whose executor is taken over in the call with a query, and says `alive` in the others. `attack` may use all of
/// [`tongue`], and `query`.
fn traitor(keys: &str, scope: &str, attack: &str) -> Project {
    let scope = format!(
        "{}{scope}\nstatic void attack(isms_call *call, isms_text query) {{ (void)call; (void)query; {attack} }}\n",
        tongue()
    );
    let execute = "learn(call); const isms_request *request; isms_request_get(call, &request);\n\
        if (request->query.len) attack(call, request->query); return say(call, \"alive\");";
    let keys = format!("workers = {{ max = 1 }}\n{keys}");
    Project::new(&manifest("attacker", &keys)).file(
        "doees/main/main.c",
        c_doee_with(&scope, "return ISMS_OK;", execute, ""),
    )
}

/// Time enough that a worker which is cut off is not cut off for its time.
fn patient() -> String {
    format!("timeout_ms = {}", 3 * SOON.as_millis())
}

/// It is cut off for what it says, the platform's log names it, its next worker serves.
#[track_caller]
fn check_exposed(besieged: &Besieged, scope: &str, attack: &str, says: &str) {
    let project = traitor(&patient(), scope, &format!("{attack} hold();"));
    super::worker_channels::check_cut_off(besieged, &project, says);
}

/// It may go on or not; it harms nobody, and its next call is served.
#[track_caller]
fn check_harmless(besieged: &Besieged, keys: &str, scope: &str, attack: &str, body: &str) -> u16 {
    let platform = &besieged.platform;
    platform.deploy(traitor(keys, scope, attack).path());
    assert_eq!(platform.get("/attacker/").text(), "alive");
    besieged.serves_while(|| {
        let mut http = crate::harness::Http::connect(platform.http);
        // A body that breaks off is an error of the connection, and as good.
        let answer = http.try_send("POST", "/attacker/?now", &[], body.as_bytes());
        eventually("the next call's answer", || {
            (platform.get("/attacker/").text() == "alive").then_some(())
        });
        answer.map_or(0, |answer| answer.status)
    })
}

#[test]
fn answers_to_calls_that_were_never_made_or_have_been_answered_expose_a_worker() {
    let Some(besieged) = Besieged::start() else { return };
    let unasked = "which does not wait for one";
    for attack in [
        "SAY(REPLY, 0, 999, reply);",
        "SAY(ERROR, 0, 0, error_body);",
        "SAY(REPLY, STREAM, 1, reply);",
        "for (uint64_t call = 3; call; call++) if (SAY(REPLY, 0, call * 0x9e3779b97f4a7c15u, reply)) break;",
    ] {
        check_exposed(&besieged, "", attack, unasked);
    }
}

#[test]
fn a_second_answer_ends_its_worker_and_the_first_one_counts() {
    let Some(besieged) = Besieged::start() else { return };
    for (second, attack) in [
        (
            "reply",
            "SAY(REPLY, 0, CALL, reply); SAY(REPLY, 0, CALL, reply); hold();",
        ),
        (
            "error",
            "SAY(REPLY, 0, CALL, reply); SAY(ERROR, 0, CALL, error_body); hold();",
        ),
    ] {
        let status = check_harmless(&besieged, &patient(), "", attack, "");
        assert!([200, 502].contains(&status), "{second}: {status}");
    }
    // What it says in an error's code is not what its caller gets. It has answered, so it gets the next call as well,
    // which it holds for as long as it may.
    let forged = "SAY(ERROR, 0, CALL, error_body); hold();";
    let status = check_harmless(&besieged, "timeout_ms = 1000", "", forged, "");
    assert_eq!(status, 500, "a worker does not speak for the kernel");
}

#[test]
fn host_calls_in_other_names_or_of_other_kinds_expose_a_worker() {
    let Some(besieged) = Besieged::start() else { return };
    let foreign = "it asked on behalf of a call that it does not run";
    let kept = "static unsigned char first[16]; static int calls;";
    for (attack, says) in [
        ("ASK(0, DBRIVER, TRANSACTION, 1, nobody);", foreign),
        ("attempt++; ASK(0, DBRIVER, TRANSACTION, 1, mine);", foreign),
        ("attempt = 0; ASK(0, DBRIVER, TRANSACTION, 1, mine);", foreign),
        (
            "mine[15] ^= 1; ASK(STREAM, DBRIVER, TRANSACTION, 1, mine);",
            foreign,
        ),
        ("ASK(0, DBRIVER, DROP, 1, mine);", "which no executor does"),
        (
            "ASK(0, RESADMIN, DELETE_PROJECT, 1, mine);",
            "which no executor does",
        ),
        ("ASK(0, COMMSERVER, 1, 1, mine);", "which no executor does"),
        ("ASK(0, GATE, LOG_OF_OTHERS, 1, mine);", "which no executor does"),
        ("ASK(0, KERNEL, 1, 1, mine);", "which no executor does"),
        ("ASK(0, DOER, 1, 1, mine);", "which no executor does"),
        ("ASK(0, DOER, INVOKE, 1, nobody);", foreign),
        (
            "ASK(0, DOER, INVOKE, 1, mine);",
            "its call of a Doee cannot be read",
        ),
        (
            "tell(REQUEST, 0, DOER, INVOKE, 1, mine, forged_call, sizeof forged_call, NULL, 0);",
            "the name of a header field of its call of a Doee",
        ),
        (
            "tell(REQUEST, STREAM, DOER, INVOKE, 1, mine, endless_call, sizeof endless_call, NULL, 0);",
            "the body of its call of a Doee",
        ),
        (
            "tell(EVENT, 0, GATE, LOG_OF_OTHERS + 1, 0, nobody, NULL, 0, NULL, 0);",
            "out of turn",
        ),
    ] {
        check_exposed(&besieged, kept, attack, says);
    }
}

#[test]
fn a_host_call_in_the_name_of_another_projects_running_call_or_of_an_ended_one_exposes_a_worker() {
    let Some(besieged) = Besieged::start() else { return };
    let platform = &besieged.platform;
    let execute = "const isms_request *request; isms_request_get(call, &request);\n\
        char t[80]; snprintf(t, sizeof t, \"id %.*s\", (int)request->invocation_id.len, request->invocation_id.data);\n\
        isms_log(call, ISMS_LOG_INFO, text(t)); if (query_is(call, \"now\")) for (;;) usleep(1000);\n\
        return say(call, t + 3);";
    let keys = patient();
    platform.deploy(Project::c_with("victim", &keys, execute).path());
    let ended = platform.get("/victim/").text();
    std::thread::scope(|scope| {
        // It runs until its worker is killed at the end.
        let victim = scope.spawn(|| platform.get("/victim/?now").status);
        let running = eventually("the victim's call", || {
            let log = platform.isms(&["logs", "victim/main"]).stdout;
            let log = String::from_utf8_lossy(&log).into_owned();
            let mut ids = log
                .lines()
                .filter_map(|line| Some(line.rsplit_once("id ")?.1.to_owned()));
            ids.next_back().filter(|id| *id != ended)
        });
        for id in [&ended, &running] {
            let attack = format!(
                "unsigned char victim[16]; read_id(\"{id}\", {}, victim); ASK(0, DBRIVER, TRANSACTION, 1, victim);",
                id.len()
            );
            let says = "it asked on behalf of a call that it does not run";
            check_exposed(&besieged, "", &attack, says);
        }
        let workers = platform.workers("victim");
        let busy = workers
            .iter()
            .find(|worker| worker["state"] == "busy")
            .expect("the victim still runs");
        let pid = busy["pid"].as_u64().unwrap() as u32;
        crate::harness::signal(pid, rustix::process::Signal::KILL);
        assert_eq!(victim.join().unwrap(), 502);
    });
}

#[test]
fn floods_of_all_kinds_expose_a_worker_and_cost_the_platform_nothing() {
    let Some(besieged) = Besieged::start() else { return };
    let idle = "about nothing that is under way";
    for (attack, says) in [
        (
            "for (uint64_t i = 9;; i++) if (SAY(CREDIT, 0, i, credit)) break;",
            idle,
        ),
        ("for (uint64_t i = 9;; i++) if (BARE(CANCEL, 0, i)) break;", idle),
        (
            "for (uint64_t i = 9;; i++) if (BARE(END, i % 2 ? TO_CALLER : 0, i)) break;",
            idle,
        ),
        (
            "for (uint64_t i = 9;; i++) if (tell(CHUNK, TO_CALLER, DOER, 0, i, nobody, NULL, 0, header, 1)) break;",
            idle,
        ),
        ("for (;;) if (BARE(HEARTBEAT, 0, 0)) break;", idle),
        (
            "for (;;) if (tell(EVENT, 0, DOER, LOG, 0, nobody, short_line, sizeof short_line, NULL, 0)) break;",
            "it did not stop logging",
        ),
        (
            "for (;;) if (tell(EVENT, 0, DOER, LOG, 0, nobody, long_line, sizeof long_line, NULL, 0)) break;",
            "it did not stop logging",
        ),
        (
            "for (uint64_t i = 1;; i++) if (ASK(STREAM, DBRIVER, TRANSACTION, i, mine)) break;",
            "are under way",
        ),
        (
            "ASK(STREAM, DBRIVER, TRANSACTION, 1, mine); ASK(STREAM, DBRIVER, TRANSACTION, 1, mine);",
            "while it was being served",
        ),
        (
            "ASK(STREAM, DBRIVER, TRANSACTION, 1, mine);\n\
             for (;;) if (tell(CHUNK, 0, DBRIVER, 0, 1, mine, NULL, 0, long_line, 1000)) break;",
            "exceeds the credit",
        ),
        (
            "tell(CREDIT, 0, DOER, 0, CALL, nobody, \"\\xff\", 1, NULL, 0);",
            "credit of call 2 is malformed",
        ),
    ] {
        check_exposed(&besieged, "", attack, says);
    }
}

#[test]
fn streams_that_break_their_rules_never_end_or_are_left_half_open_harm_nobody() {
    let Some(besieged) = Besieged::start() else { return };
    let patient = patient();
    let hasty = "timeout_ms = 1000".to_owned();
    for (keys, attack) in [
        // A chunk without credit, and one that is too long.
        (
            &patient,
            "SAY(REPLY, STREAM, CALL, reply);\n\
            for (;;) if (tell(CHUNK, TO_CALLER, DOER, 0, CALL, nobody, NULL, 0, long_line, CHUNK_LEN_MAX)) break; hold();",
        ),
        (
            &patient,
            "SAY(REPLY, STREAM, CALL, reply);\n\
            tell(CHUNK, TO_CALLER, DOER, 0, CALL, nobody, NULL, 0, long_line, CHUNK_LEN_MAX + 1); hold();",
        ),
        // Chunks of nothing.
        (
            &patient,
            "SAY(REPLY, STREAM, CALL, reply); for (;;) if (BARE(CHUNK, TO_CALLER, CALL)) break; hold();",
        ),
        // Nothing ever follows.
        (&hasty, "SAY(REPLY, STREAM, CALL, reply); hold();"),
        // Requests that are left behind half-open, by the thousand.
        (
            &hasty,
            "for (uint64_t i = 1; i < 20000; i++)\n\
            if (ASK(STREAM, DBRIVER, TRANSACTION, i, mine) || tell(CANCEL, 0, DBRIVER, 0, i, mine, NULL, 0, NULL, 0)) break;",
        ),
        // Asks and never reads an answer.
        (
            &hasty,
            "for (uint64_t i = 1; i < 20000; i++) if (ASK(0, DBRIVER, TRANSACTION, i, mine)) break; hold();",
        ),
        // Grants credit without end for the request's body, and never reads it.
        (
            &hasty,
            "for (int i = 0; i < 4000; i++) if (SAY(CREDIT, TO_CALLER, CALL, credit)) break; hold();",
        ),
        // PINGs without end, and reads no PONG.
        (
            &hasty,
            "static const unsigned char ping[] = {4, 7, 4, 'P', 'I', 'N', 'G', 0, 0};\n\
            for (;;) if (put(ping, sizeof ping)) break; hold();",
        ),
    ] {
        let status = check_harmless(&besieged, keys, "", attack, &"x".repeat(1 << 20));
        // Nothing came of it, its answer broke off, or it was ended.
        assert!([0, 200, 502, 504].contains(&status), "{status}: {attack}");
    }
}

#[test]
fn half_open_host_calls_of_one_worker_do_not_keep_the_others_from_their_databases() {
    let Some(besieged) = Besieged::start() else { return };
    let platform = &besieged.platform;
    platform.deploy(super::compromised_doer::keeper("keeper", &["store"]).path());
    assert_eq!(platform.get("/keeper/").text(), "1");
    // As many as a worker may have under way, and a line of the log behind them.
    let attack = "for (uint64_t i = 1; i <= 64; i++) ASK(STREAM, DBRIVER, TRANSACTION, i, mine);\n\
        tell(EVENT, 0, DOER, LOG, 0, nobody, short_line, sizeof short_line, NULL, 0); hold();";
    platform.deploy(traitor(&patient(), "", attack).path());
    assert_eq!(platform.get("/attacker/").text(), "alive");
    let worker = platform.worker_of("attacker");
    std::thread::scope(|scope| {
        let attacker = scope.spawn(|| platform.get("/attacker/?now").status);
        eventually("the line behind the half-open calls", || {
            let log = platform.isms(&["logs", "attacker/main"]).stdout;
            String::from_utf8_lossy(&log).contains('x').then_some(())
        });
        for count in 2..20 {
            assert_eq!(platform.get("/keeper/").text(), count.to_string());
        }
        assert!(worker.is_alive(), "the attack still went on");
        worker.kill();
        assert_eq!(attacker.join().unwrap(), 502);
    });
    besieged.check_unharmed();
}

#[test]
fn a_status_page_that_lies_all_the_time_hurts_none_but_its_own_calls() {
    let Some(besieged) = Besieged::start() else { return };
    let platform = &besieged.platform;
    // Every word, with every value, from a thread of its own, while calls come and go.
    let scope = "static volatile uint32_t *page; static volatile int lies;\n\
        static void find_page(void) {\n\
            FILE *maps = fopen(\"/proc/self/maps\", \"r\"); char line[512];\n\
            while (maps && fgets(line, sizeof line, maps))\n\
                if (strstr(line, \"status-page\")) page = (volatile uint32_t *)strtoul(line, NULL, 16);\n\
            if (maps) fclose(maps);\n\
        }\n\
        static void *lie(void *unused) {\n\
            uint64_t state = 88172645463325252u;\n\
            for (;;) {\n\
                state ^= state << 13; state ^= state >> 7; state ^= state << 17;\n\
                uint32_t word = (uint32_t)(state >> 8) % (STATUS_LEN / 4);\n\
                page[word] = state & 64 ? (uint32_t)((state >> 40) << 2 | (state & 3)) : (uint32_t)(state >> 32);\n\
                lies++;\n\
            }\n\
            return unused;\n\
        }\n";
    let attack = "if (!page) { find_page(); if (!page) abort(); pthread_t liar; pthread_create(&liar, NULL, lie, NULL); }\n\
        int before = lies; while (lies - before < 1000) usleep(100);";
    platform.deploy(traitor("timeout_ms = 2000", scope, attack).path());
    let worker = || {
        let answer = platform.get("/attacker/?now");
        assert!(
            [200, 500, 502, 504].contains(&answer.status),
            "{} {}",
            answer.status,
            answer.text()
        );
        answer.status
    };
    besieged.serves_while(|| {
        let mut statuses = Vec::new();
        std::thread::scope(|scope| {
            let callers: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| (0..12).map(|_| worker()).collect::<Vec<_>>()))
                .collect();
            for caller in callers {
                statuses.extend(caller.join().unwrap());
            }
        });
        assert_eq!(statuses.len(), 96, "each caller got one answer");
        assert!(
            statuses.contains(&200),
            "the liar was really at work: {statuses:?}"
        );
    });
}
