//! Small projects that tests deploy.

use std::{fs, path::Path, process::Command};

/// A project's folder in the making.
pub(crate) struct Project {
    folder: tempfile::TempDir,
}

impl Project {
    /// A project with this manifest.
    pub(crate) fn new(manifest: &str) -> Project {
        let project = Project {
            folder: tempfile::tempdir().unwrap(),
        };
        project.file("project.toml", manifest)
    }

    /// A project of one C function named `main` that serves `GET /` and `POST /`.
    pub(crate) fn c(name: &str, execute: &str) -> Project {
        Project::c_with(name, "", execute)
    }

    /// The same with more keys of its function.
    pub(crate) fn c_with(name: &str, keys: &str, execute: &str) -> Project {
        Project::new(&manifest(name, keys)).file("doees/main/main.c", c_doee(execute))
    }

    pub(crate) fn file(self, path: &str, content: impl AsRef<[u8]>) -> Project {
        let path = self.folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
        self
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }
}

/// The manifest of a project with one function and a route for each common method.
pub(crate) fn manifest(name: &str, keys: &str) -> String {
    format!(
        "[project]\nname = \"{name}\"\n\n[doee.main]\nlanguage = \"c\"\nsource = \"doees/main\"\n{keys}\n\n\
         [[trigger]]\nhttp = \"GET /\"\nauth = \"none\"\ndoee = \"main\"\n\n\
         [[trigger]]\nhttp = \"POST /\"\nauth = \"none\"\ndoee = \"main\"\n"
    )
}

/// A Doee in C whose `execute` has this body; `call` and the helpers `say`, `say_value` and `query_is` are at hand.
pub(crate) fn c_doee(execute: &str) -> String {
    c_doee_with("", "return ISMS_OK;", execute, "")
}

/// A Doee in C: what stands at file scope, and the bodies of its functions.
pub(crate) fn c_doee_with(scope: &str, initialize: &str, execute: &str, terminate: &str) -> String {
    format!(
        r#"#define _GNU_SOURCE
#include <isms_doee.h>
#include <stdlib.h>
#include <string.h>
#include <stdio.h>
#include <unistd.h>
#include <sys/mman.h>

static isms_text text(const char *t) {{ isms_text r = {{t, strlen(t)}}; return r; }}
static isms_result say(isms_call *call, const char *t) {{
    isms_result r = isms_respond_begin(call, 200, NULL, 0, strlen(t));
    return r == ISMS_OK ? isms_respond_write(call, t, strlen(t)) : r;
}}
static int query_is(isms_call *call, const char *t) {{
    const isms_request *request;
    if (isms_request_get(call, &request) != ISMS_OK) return 0;
    return request->query.len == strlen(t) && memcmp(request->query.data, t, strlen(t)) == 0;
}}
static isms_result say_value(isms_call *call, const char *database, const char *query) {{
    isms_statement statement = {{ {{ query, strlen(query) }}, NULL, 0, ISMS_ROWS_ANY }};
    isms_handle handle;
    isms_rows rows;
    if (isms_sql(call, text(database), &statement, 1, &handle)) return ISMS_FAILED;
    if (isms_sql_rows(call, handle, 0, &rows)) return ISMS_FAILED;
    isms_text value = rows.values[0].as.text;
    isms_result r = isms_respond_begin(call, 200, NULL, 0, value.len);
    return r == ISMS_OK ? isms_respond_write(call, value.data, value.len) : r;
}}
{scope}
static void *create(isms_call *call) {{ (void)call; static int doee; return &doee; }}
static void destroy(void *doee) {{ (void)doee; }}
static isms_result initialize(void *doee, isms_call *call) {{ (void)doee; (void)call; (void)text; (void)say; (void)say_value; (void)query_is; {initialize} }}
static isms_result execute(void *doee, isms_call *call) {{ (void)doee; (void)call; {execute} }}
static void terminate(void *doee, isms_call *call) {{ (void)doee; (void)call; {terminate} }}
const isms_doee_table *isms_doee_v1(void) {{
    static const isms_doee_table table = {{ sizeof(isms_doee_table), ISMS_DOEE_ABI, 0, create, destroy, initialize, execute, terminate }};
    return &table;
}}
"#
    )
}

/// A C source as a shared object, built by the host's compiler with these options beside the common ones.
pub(crate) fn shared_object(source: &str, options: &[&str]) -> Vec<u8> {
    let scratch = tempfile::tempdir().unwrap();
    let (path, binary) = (scratch.path().join("main.c"), scratch.path().join("main.so"));
    fs::write(&path, source).unwrap();
    let status = Command::new("cc")
        .args(["-shared", "-fPIC", "-O2", "-o"])
        .arg(&binary)
        .arg(&path)
        .arg("-I")
        .arg(crate::harness::repository().join("sdk/c/include"))
        .args(options)
        .status();
    assert!(status.unwrap().success());
    fs::read(&binary).unwrap()
}
