//! What a client may send to CommServer and Control Gate, well formed or not.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{
    harness::{Http, Platform, exchange},
    project::{Project, manifest},
};

#[test]
fn what_does_not_exist_is_a_problem_document() {
    let Some(platform) = Platform::start() else { return };
    platform.deploy(Project::c("here", "return say(call, \"ok\");").path());
    for path in ["/", "/nowhere/", "/here/deeper", "/Here/"] {
        let answer = platform.get(path);
        assert_eq!(answer.status, 404, "{path}");
        assert_eq!(
            answer.header("content-type"),
            Some("application/problem+json"),
            "{path}"
        );
    }
    let answer = platform.request("DELETE", "/here/", "");
    assert_eq!(answer.status, 405);
    assert!(answer.header("allow").unwrap().contains("POST"));
}

#[test]
fn a_route_with_auth_token_wants_a_token_of_its_project() {
    let Some(platform) = Platform::start() else { return };
    let text = manifest("locked", "").replace("auth = \"none\"", "auth = \"token\"");
    let source = crate::project::c_doee("return say(call, \"in\");");
    platform.deploy(Project::new(&text).file("doees/main/main.c", source).path());
    platform.deploy(Project::c("other", "return say(call, \"ok\");").path());
    assert_eq!(platform.get("/locked/").status, 401);
    let token = |project: &str| {
        let output = platform.isms(&["token", "create", "device", "--project", project]);
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let call = |token: &str| {
        let bearer = format!("Bearer {token}");
        Http::connect(platform.http).send("GET", "/locked/", &[("authorization", &bearer)], b"")
    };
    assert_eq!(call(&token("locked")).text(), "in");
    assert_eq!(call(&token("other")).status, 403);
    assert_eq!(call("isms_nonsense").status, 401);
}

#[test]
fn a_body_of_16_mib_passes_both_ways_and_a_larger_one_is_413() {
    let Some(platform) = Platform::start() else { return };
    let echo = "static char buffer[65536]; size_t len; const isms_request *request; isms_request_get(call, &request);\n\
        if (isms_respond_begin(call, 200, NULL, 0, request->body_len)) return ISMS_FAILED;\n\
        for (;;) { if (isms_body_read(call, buffer, sizeof buffer, &len)) return ISMS_FAILED; if (!len) return ISMS_OK;\n\
        if (isms_respond_write(call, buffer, len)) return ISMS_FAILED; }";
    platform.deploy(Project::c_with("echo", "timeout_ms = 30000", echo).path());
    let body: Vec<u8> = (0..16u32 << 20)
        .map(|index| (index ^ (index >> 11)) as u8)
        .collect();
    let answer = Http::connect(platform.http).send("POST", "/echo/", &[], &body);
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(answer.body == body);
    let mut http = Http::connect(platform.http);
    http.write(
        format!(
            "POST /echo/ HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n",
            (16 << 20) + 1
        )
        .as_bytes(),
    )
    .unwrap();
    assert_eq!(http.receive(false).unwrap().status, 413);
}

#[test]
fn malformed_requests_are_refused_and_nobody_else_notices() {
    let Some(platform) = Platform::start() else { return };
    platform.deploy(Project::c("here", "return say(call, \"ok\");").path());
    let long = format!(
        "GET /here/ HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n",
        "y".repeat(64 << 10)
    );
    let malformed: [&[u8]; 9] = [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET\r\n\r\n",
        b"GET /here/ HTTP/9.9\r\n\r\n",
        b"GET /here/ HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET /here/%00 HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET /here/%ff HTTP/1.1\r\nhost: x\r\n\r\n",
        b"POST /here/ HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\nabc",
        b"POST /here/ HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabc",
        long.as_bytes(),
    ];
    for bytes in malformed {
        match exchange(platform.http, bytes) {
            Ok(answer) => assert!(
                (400..500).contains(&answer.status),
                "{}: {bytes:?}",
                answer.status
            ),
            // Closed without a word is a refusal, too.
            Err(error) => assert!(error.kind() != std::io::ErrorKind::WouldBlock, "{bytes:?} hung"),
        }
        assert_eq!(platform.get("/here/").text(), "ok");
    }
}

#[test]
fn the_management_api_takes_bearer_tokens_only_and_known_hosts_only() {
    let Some(platform) = Platform::start() else { return };
    let token = platform.admin_token();
    let ask = |headers: &[(&str, &str)]| {
        Http::connect(platform.gate)
            .send("GET", "/api/v1/status", headers, b"")
            .status
    };
    assert_eq!(ask(&[]), 401);
    assert_eq!(ask(&[("cookie", &format!("token={token}"))]), 401);
    assert_eq!(ask(&[("authorization", &format!("Bearer {token}"))]), 200);
    let request =
        format!("GET /api/v1/status HTTP/1.1\r\nhost: evil.example\r\nauthorization: Bearer {token}\r\n\r\n");
    let status = exchange(platform.gate, request.as_bytes()).unwrap().status;
    assert!([403, 421].contains(&status), "{status}");
}

#[test]
fn a_token_does_what_its_rights_say_and_nothing_after_it_is_revoked() {
    let Some(platform) = Platform::start() else { return };
    let created = platform.isms(&["token", "create", "reader", "--rights", "read", "--json"]);
    let created: serde_json::Value = serde_json::from_slice(&created.stdout).unwrap();
    let bearer = format!("Bearer {}", created["token"].as_str().unwrap());
    let ask = |method: &str, path: &str| {
        Http::connect(platform.gate)
            .send(method, path, &[("authorization", &bearer)], b"")
            .status
    };
    assert_eq!(ask("GET", "/api/v1/projects"), 200);
    assert_eq!(ask("GET", "/api/v1/tokens"), 403);
    assert_eq!(ask("POST", "/api/v1/deployments"), 403);
    assert!(
        platform
            .isms(&["token", "revoke", created["id"].as_str().unwrap()])
            .status
            .success()
    );
    crate::harness::eventually("the end of the token", || {
        (ask("GET", "/api/v1/projects") == 401).then_some(())
    });
}

/// Files below a folder that hold these bytes.
fn files_with(folder: &Path, bytes: &[u8], found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            files_with(&entry.path(), bytes, found);
        } else if kind.is_file() {
            let text = fs::read(entry.path()).unwrap();
            if text.windows(bytes.len()).any(|window| window == bytes) {
                found.push(entry.path());
            }
        }
    }
}

#[test]
fn no_token_lies_in_the_data_directory_but_the_administrators_in_its_file() {
    let Some(platform) = Platform::start() else { return };
    let created = platform.isms(&["token", "create", "a-device", "--json"]);
    let created: serde_json::Value = serde_json::from_slice(&created.stdout).unwrap();
    let token = created["token"].as_str().unwrap();
    let holding = |text: &str| {
        let mut found = Vec::new();
        files_with(platform.data.path(), text.as_bytes(), &mut found);
        found
    };
    assert!(!holding("a-device").is_empty());
    assert_eq!(holding(token), Vec::<PathBuf>::new());
    assert_eq!(
        holding(&platform.admin_token()),
        [platform.data.path().join("admin.token")]
    );
}
