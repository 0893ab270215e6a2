//! Compiles the header as C and as C++ and compares every size, offset and number with the twin.

use std::fmt::Write as _;
use std::mem::{offset_of, size_of};
use std::path::Path;
use std::process::Command;

use isms_doee_sys as sys;

struct Check {
    expression: String,
    expected: i128,
}

macro_rules! layout {
    ($checks:ident, $c:literal = $rust:ident { $($field:ident $(as $name:literal)?),* }) => {
        $checks.push(Check { expression: format!("sizeof({})", $c), expected: size_of::<sys::$rust>() as i128 });
        $($checks.push(Check {
            expression: format!("offsetof({}, {})", $c, [$($name,)? stringify!($field)][0]),
            expected: offset_of!(sys::$rust, $field) as i128,
        });)*
    };
}

macro_rules! numbers {
    ($checks:ident, $($c:literal = $rust:ident),* $(,)?) => {
        $($checks.push(Check { expression: $c.to_owned(), expected: sys::$rust as i128 });)*
    };
}

fn structs(checks: &mut Vec<Check>) {
    layout!(checks, "isms_text" = Text { data, len });
    layout!(checks, "isms_pair" = Pair { name, value });
    layout!(checks, "isms_value" = Value { kind, reserved, value as "as" });
    layout!(checks, "isms_param" = Param { name, value });
    layout!(
        checks,
        "isms_request" = Request {
            size,
            trigger,
            attempt,
            invocation_id,
            method,
            path,
            route,
            query,
            principal,
            trace,
            deadline_us,
            body_len,
            parameters,
            parameter_count,
            headers,
            header_count
        }
    );
    layout!(
        checks,
        "isms_statement" = Statement {
            sql,
            parameters,
            parameter_count,
            rows_demanded
        }
    );
    layout!(
        checks,
        "isms_rows" = Rows {
            rows_changed,
            row_count,
            column_count,
            columns,
            values
        }
    );
    layout!(
        checks,
        "isms_http_request" = HttpRequest {
            size,
            method,
            url,
            headers,
            header_count,
            body,
            timeout_ms,
            redirects_max
        }
    );
    layout!(
        checks,
        "isms_http_answer" = HttpAnswer {
            size,
            status,
            reserved,
            url,
            body_len,
            headers,
            header_count
        }
    );
    layout!(
        checks,
        "isms_invoke_request" = InvokeRequest {
            size,
            doee,
            headers,
            header_count,
            body,
            class_max,
            deadline_ms,
            flags,
            reserved
        }
    );
    layout!(
        checks,
        "isms_invoke_answer" = InvokeAnswer {
            size,
            status,
            reserved,
            process,
            body_len,
            headers,
            header_count
        }
    );
    layout!(checks, "isms_call" = Call { host });
    layout!(
        checks,
        "isms_host" = Host {
            size,
            abi,
            reserved,
            error,
            fail,
            log,
            params,
            request,
            check,
            body,
            body_read,
            respond_begin,
            respond_write,
            sql_start,
            wait,
            sql_rows,
            release,
            http_start,
            http_answer,
            http_read,
            invoke_start,
            invoke_answer,
            invoke_read
        }
    );
    layout!(
        checks,
        "isms_doee_table" = DoeeTable {
            size,
            abi,
            reserved,
            create,
            destroy,
            initialize,
            execute,
            terminate
        }
    );
}

fn constants(checks: &mut Vec<Check>) {
    numbers!(
        checks,
        "ISMS_DOEE_ABI" = ABI,
        "ISMS_LEN_UNKNOWN" = LEN_UNKNOWN,
        "ISMS_ROWS_ANY" = ROWS_ANY,
        "ISMS_OK" = OK,
        "ISMS_CANCELLED" = CANCELLED,
        "ISMS_DEADLINE" = DEADLINE,
        "ISMS_WRONG_THREAD" = WRONG_THREAD,
        "ISMS_FORBIDDEN" = FORBIDDEN,
        "ISMS_CONDITION_FAILED" = CONDITION_FAILED,
        "ISMS_LIMIT" = LIMIT,
        "ISMS_DATABASE" = DATABASE,
        "ISMS_INVALID" = INVALID,
        "ISMS_UNAVAILABLE" = UNAVAILABLE,
        "ISMS_NOT_FOUND" = NOT_FOUND,
        "ISMS_TIMEOUT" = TIMEOUT,
        "ISMS_FAILED" = FAILED,
        "ISMS_INTERNAL" = INTERNAL,
        "ISMS_NULL" = KIND_NULL,
        "ISMS_INTEGER" = KIND_INTEGER,
        "ISMS_REAL" = KIND_REAL,
        "ISMS_TEXT" = KIND_TEXT,
        "ISMS_BLOB" = KIND_BLOB,
        "ISMS_BOOLEAN" = KIND_BOOLEAN,
        "ISMS_TRIGGER_HTTP" = TRIGGER_HTTP,
        "ISMS_TRIGGER_DIRECT" = TRIGGER_DIRECT,
        "ISMS_TRIGGER_SCHEDULE" = TRIGGER_SCHEDULE,
        "ISMS_TRIGGER_CALL" = TRIGGER_CALL,
        "ISMS_CLASS_SAME" = CLASS_SAME,
        "ISMS_CLASS_REALTIME" = CLASS_REALTIME,
        "ISMS_CLASS_HIGH" = CLASS_HIGH,
        "ISMS_CLASS_NORMAL" = CLASS_NORMAL,
        "ISMS_CLASS_BATCH" = CLASS_BATCH,
        "ISMS_INVOKE_ASYNC" = INVOKE_ASYNC,
        "ISMS_LOG_DEBUG" = LOG_DEBUG,
        "ISMS_LOG_INFO" = LOG_INFO,
        "ISMS_LOG_WARN" = LOG_WARN,
        "ISMS_LOG_ERROR" = LOG_ERROR,
    );
}

/// Compiles a program that checks each number at compile time, so a mismatch names its expression.
fn compile(compiler: &str, flags: &[&str], assertion: &str) {
    let mut checks = Vec::new();
    structs(&mut checks);
    constants(&mut checks);
    let mut source = String::from("#include \"isms_doee_http.h\"\n#include \"isms_doee_call.h\"\n");
    for Check { expression, expected } in &checks {
        let (left, right) = match i64::try_from(*expected) {
            Ok(expected) => (format!("(long long)({expression})"), format!("{expected}LL")),
            Err(_) => (
                format!("(unsigned long long)({expression})"),
                format!("{expected}ULL"),
            ),
        };
        writeln!(
            source,
            "{assertion}({left} == {right}, \"{expression} is not {expected}\");"
        )
        .expect("a string");
    }
    let folder = std::env::temp_dir().join(format!("isms-layout-{compiler}-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder of its own");
    let file = folder.join("layout.c");
    std::fs::write(&file, source).expect("a file in it");
    let header = Path::new(env!("CARGO_MANIFEST_DIR")).join("../c/include");
    let output = Command::new(compiler)
        .args(["-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fsyntax-only"])
        .args(flags)
        .arg("-I")
        .arg(header)
        .arg(&file)
        .output()
        .expect("a compiler");
    std::fs::remove_dir_all(&folder).expect("its own folder");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn the_twin_has_the_layout_and_the_numbers_of_the_header_in_c11() {
    compile("gcc", &["-std=c11"], "_Static_assert");
}

#[test]
fn the_twin_has_the_layout_and_the_numbers_of_the_header_in_cpp20() {
    compile("g++", &["-std=c++20", "-x", "c++"], "static_assert");
}

#[test]
fn the_header_stays_within_250_lines() {
    let header = Path::new(env!("CARGO_MANIFEST_DIR")).join("../c/include/isms_doee.h");
    let lines = std::fs::read_to_string(header)
        .expect("the header")
        .lines()
        .count();
    assert!(lines <= 250, "{lines} lines");
}
