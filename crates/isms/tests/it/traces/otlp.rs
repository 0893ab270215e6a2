//! Traces that are passed on to a collector of OpenTelemetry, which the test is.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use serde_json::Value;

use super::{TWO_STATEMENTS, fetch, process, us};
use crate::{
    data::with_database,
    harness::{Http, Platform, eventually},
    project::Project,
};

/// A collector; what it is sent is kept.
struct Collector {
    address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
    spans: Arc<Mutex<Vec<Value>>>,
    /// How many connections it has had that it did not want.
    away: Arc<AtomicUsize>,
}

impl Collector {
    /// One that closes so many connections, answers as many requests with 503, and takes what comes then.
    fn start(away: usize) -> Collector {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let collector = Collector {
            address: listener.local_addr().unwrap(),
            heads: Arc::default(),
            spans: Arc::default(),
            away: Arc::default(),
        };
        let (heads, spans) = (Arc::clone(&collector.heads), Arc::clone(&collector.spans));
        let refused = Arc::clone(&collector.away);
        // It ends with the test's process.
        std::thread::spawn(move || {
            for (number, stream) in listener.incoming().enumerate() {
                let Ok(stream) = stream else { return };
                refused.fetch_add(usize::from(number < 2 * away), Relaxed);
                if number < away {
                    continue;
                }
                let status = if number < 2 * away {
                    "503 Service Unavailable"
                } else {
                    "200 OK"
                };
                let Some((head, body)) = answer(stream, status) else {
                    continue;
                };
                if number >= 2 * away {
                    heads.lock().unwrap().push(head);
                    spans.lock().unwrap().extend(spans_of(&body));
                }
            }
        });
        collector
    }

    fn setting(&self) -> String {
        format!("otlp = 'http://{}'", self.address)
    }

    fn named(&self, name: &str) -> Vec<Value> {
        let spans = self.spans.lock().unwrap();
        spans
            .iter()
            .filter(|span| span["name"] == name)
            .cloned()
            .collect()
    }
}

/// Reads a request and answers it: its head in small letters, and its body.
fn answer(stream: TcpStream, status: &str) -> Option<(String, Vec<u8>)> {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    let head = head.to_ascii_lowercase();
    let len = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))?;
    let mut body = vec![0; len.parse().ok()?];
    reader.read_exact(&mut body).ok()?;
    let response = format!("HTTP/1.1 {status}\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{{}}");
    reader.get_mut().write_all(response.as_bytes()).ok()?;
    Some((head, body))
}

fn spans_of(body: &[u8]) -> Vec<Value> {
    let request: Value = serde_json::from_slice(body).unwrap();
    let spans = &request["resourceSpans"][0]["scopeSpans"][0]["spans"];
    spans.as_array().unwrap().clone()
}

fn attribute<'a>(span: &'a Value, key: &str) -> &'a str {
    let mut all = span["attributes"].as_array().unwrap().iter();
    let found = all.find(|attribute| attribute["key"] == key);
    found.map_or("", |found| found["value"]["stringValue"].as_str().unwrap_or(""))
}

fn nanos(span: &Value, name: &str) -> u64 {
    span[name].as_str().unwrap().parse().unwrap()
}

#[test]
fn a_collector_gets_each_span_with_its_ids_times_and_header_fields() {
    let collector = Collector::start(0);
    let folder = tempfile::tempdir().unwrap();
    let headers = folder.path().join("headers");
    std::fs::write(&headers, "x-tenant: seven\n").unwrap();
    let file = format!("otlp_headers_file = {:?}", headers.display().to_string());
    let Some(platform) = Platform::start_with(&["[traces]", &collector.setting(), &file]) else {
        return;
    };
    platform.deploy(with_database("sent", "", TWO_STATEMENTS).path());
    let mut client = Http::connect(platform.http);
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let response = client.send("GET", "/sent/", &[("traceparent", parent)], b"");
    assert_eq!(response.text(), "ok");
    let (root, run, statements) = eventually("four spans", || {
        let root = collector.named("sent/main").pop()?;
        let run = collector.named("run").pop()?;
        let statements = collector.named("dbriver transaction");
        (statements.len() == 2).then_some((root, run, statements))
    });
    assert_eq!(root["traceId"], "0af7651916cd43dd8448eb211c80319c");
    assert_eq!(
        (&root["parentSpanId"], &root["kind"]),
        (&Value::from("b7ad6b7169203331"), &Value::from(2))
    );
    assert_eq!(attribute(&root, "isms.process"), process(&response));
    assert_eq!(attribute(&root, "isms.outcome"), "done");
    assert_eq!(attribute(&run, "isms.start"), "pooled");
    for span in statements.iter().chain([&run]) {
        assert_eq!(
            (&span["traceId"], &span["parentSpanId"]),
            (&root["traceId"], &root["spanId"])
        );
        assert!(
            nanos(span, "startTimeUnixNano") <= nanos(span, "endTimeUnixNano"),
            "{span}"
        );
    }
    let path = format!("/api/v1/traces/{}", process(&response));
    let kept = fetch(&platform, &platform.admin_token(), &path).json();
    let kept = &kept["calls"][0]["spans"][0];
    assert_eq!(kept["span"], root["spanId"]);
    assert_eq!(1000 * us(kept, "at_us"), nanos(&root, "startTimeUnixNano"));
    let heads = collector.heads.lock().unwrap();
    for head in heads.iter() {
        assert!(head.starts_with("post /v1/traces http/1.1\r\n"), "{head}");
        assert!(head.contains("x-tenant: seven\r\n") && head.contains("content-type: application/json\r\n"));
    }
}

#[test]
fn a_collector_that_is_away_holds_up_no_call_and_gets_the_spans_when_it_is_back() {
    let collector = Collector::start(1);
    let Some(platform) = Platform::start_with(&["[traces]", &collector.setting()]) else {
        return;
    };
    platform.deploy(Project::c("patient", "return say(call, \"ok\");").path());
    let first = process(&platform.get("/patient/"));
    eventually("an attempt in vain", || {
        (collector.away.load(Relaxed) > 0).then_some(())
    });
    assert_eq!(platform.get("/patient/").text(), "ok");
    eventually("the first call's span", || {
        let spans = collector.named("patient/main");
        spans
            .iter()
            .any(|span| attribute(span, "isms.process") == first)
            .then_some(())
    });
    assert_eq!(collector.away.load(Relaxed), 2);
    let metrics = eventually("both calls' spans", || {
        let text = fetch(&platform, &platform.admin_token(), "/metrics").text();
        let sent = text
            .lines()
            .find_map(|line| line.strip_prefix("isms_trace_exported_total "));
        (sent?.parse::<u64>().unwrap() >= 4).then_some(text)
    });
    assert!(
        metrics.contains("\nisms_trace_export_dropped_total 0\n"),
        "{metrics}"
    );
}
