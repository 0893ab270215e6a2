//! A Doer that was taken over: it is registered and really holds a call. It wants the data of a project that is not
//! the call's, or to take the Kernel with it. Kernel, DBriver and Resadmin are real processes on real data.

use isms_ipc::{Answer, Inbound, InboundRequest, Inbox, Link};
use isms_protocol::{
    DoeeVersion, ErrorCode, Header, Kind, Message, PrincipalId, ProcessId, ProjectId, Service,
    commserver::ProjectRoutes,
    dbriver::{self, Results, Statement, Transaction, Value},
    decode,
    doer::{self, Invocation},
    encode,
    kernel::Slots,
    resadmin::{self, Projects},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};

use super::{ENDLESS, GROWTH_MAX_KIB, HUGE_FRAME, endless_more, frames, garbage, hello, ready};
use crate::{
    harness::{Platform, Roles, SOON, register},
    project::{Project, c_doee_with},
};

/// Longest answer that the test expects.
const ANSWER_LEN_MAX: usize = 64 * 1024;

/// A project with databases of one table; each call adds a row to `store` and tells how many there are.
pub(super) fn keeper(name: &str, databases: &[&str]) -> Project {
    let mut manifest = format!(
        "[project]\nname = \"{name}\"\n\n[doee.main]\nlanguage = \"c\"\nsource = \"doees/main\"\n\
         allow = {{ sql = {databases:?} }}\n\n\
         [[trigger]]\nhttp = \"GET /\"\nauth = \"none\"\ndoee = \"main\"\n"
    );
    for database in databases {
        manifest.push_str(&format!(
            "\n[database.{database}]\nkind = \"sql\"\nengine = \"sqlite\"\nmigrations = \"migrations\"\n"
        ));
    }
    let execute = "isms_statement statements[] = {\n\
        { text(\"insert into items values ('a secret')\"), NULL, 0, ISMS_ROWS_ANY },\n\
        { text(\"select count(*) from items\"), NULL, 0, ISMS_ROWS_ANY } };\n\
        isms_handle handle; isms_rows rows; char t[32];\n\
        if (isms_sql(call, text(\"store\"), statements, 2, &handle)) return ISMS_FAILED;\n\
        if (isms_sql_rows(call, handle, 1, &rows)) return ISMS_FAILED;\n\
        snprintf(t, sizeof t, \"%ld\", (long)rows.values[0].as.integer); return say(call, t);";
    Project::new(&manifest)
        .file(
            "doees/main/main.c",
            c_doee_with("", "return ISMS_OK;", execute, ""),
        )
        .file(
            "migrations/0001_items.sql",
            "create table items (name text not null);\n",
        )
}

/// Asks Resadmin as an edge, of its own accord.
async fn ask_resadmin(edge: &Link, operation: resadmin::Operation, project: ProjectId) -> Answer {
    let header = Header {
        operation: operation as u16,
        project,
        ..Header::new(Kind::Request, Service::Commserver, Service::Resadmin)
    };
    edge.call(Message::bare(header)).await.unwrap()
}

/// The id of a project and the version of its only Doee.
async fn find(edge: &Link, name: &str) -> (ProjectId, DoeeVersion) {
    let projects = ask_resadmin(edge, resadmin::Operation::Projects, ProjectId::NONE).await;
    let projects: Projects = projects.message.decode_body().unwrap();
    let project = projects.projects.iter().find(|project| project.name == name);
    let project = project.unwrap().id;
    let routes = ask_resadmin(edge, resadmin::Operation::Routes, project).await;
    let routes: ProjectRoutes = decode(&routes.payload(ANSWER_LEN_MAX).await.unwrap()).unwrap();
    (project, routes.routes[0].version)
}

/// Says that the Doer takes a call of a Doee.
pub(super) fn slots(version: DoeeVersion) -> Message {
    let header = Header {
        target_doee: version,
        ..Header::new(Kind::Slots, Service::Doer, Service::Kernel)
    };
    Message::with_body(header, &Slots::all(1))
}

/// A call of a project's Doee, as an edge asks for it.
pub(super) fn invoke((project, version): (ProjectId, DoeeVersion)) -> Message {
    let header = Header {
        operation: doer::Operation::Invoke as u16,
        project,
        target_doee: version,
        ..Header::new(Kind::Request, Service::Commserver, Service::Doer)
    };
    Message::with_body(header, &Invocation::default())
}

/// The call that the Kernel dispatches to the Doer.
pub(super) async fn dispatched(inbox: &mut Inbox) -> InboundRequest {
    let request = async {
        loop {
            if let Inbound::Request(request) = inbox.next().await.expect("the link stands") {
                return request;
            }
        }
    };
    tokio::time::timeout(SOON, request).await.unwrap()
}

/// A host call of the running call's Doee, as an honest Doer would pass it on.
pub(super) fn child_of(call: &Header, target: Service, operation: u16) -> Header {
    Header {
        operation,
        parent: call.process,
        attempt: call.attempt,
        ..Header::new(Kind::Request, Service::Doer, target)
    }
}

async fn run_sql(
    doer: &Link,
    header: Header,
    database: &str,
    sql: &str,
) -> Result<Results, (ErrorCode, String)> {
    let transaction = Transaction {
        database: database.to_owned(),
        statements: vec![Statement {
            sql: sql.to_owned(),
            parameters: Vec::new(),
            rows_demanded: None,
        }],
    };
    let request = Message::bare(header).with_raw(encode(&transaction));
    let payload = async { doer.call(request).await?.payload(ANSWER_LEN_MAX).await };
    let payload = payload.await.map_err(|error| (error.code, error.message))?;
    Ok(decode(&payload).unwrap())
}

/// Whatever the Doer claims in the name of a call of `alpha`, it gets nothing of `beta`.
async fn attack(doer: &Link, call: &Header, beta: (ProjectId, DoeeVersion)) {
    let transaction = dbriver::Operation::Transaction as u16;
    let own = child_of(call, Service::Dbriver, transaction);
    let count = run_sql(doer, own, "store", "select count(*) from items")
        .await
        .unwrap();
    assert_eq!(
        count.results[0].rows,
        [[Value::Integer(0)]],
        "the call's own database, not the other project's of that name"
    );

    let not_granted = "the function was not granted the database vault; add it to allow.sql";
    let refused = run_sql(doer, own, "vault", "delete from items")
        .await
        .unwrap_err();
    assert_eq!(refused, (ErrorCode::Forbidden, not_granted.to_owned()));
    for path in [format!("../{}/store", beta.0), format!("{}/store", beta.0)] {
        let refused = run_sql(doer, own, &path, "delete from items").await.unwrap_err();
        assert_eq!(refused.0, ErrorCode::Invalid, "{path}: {}", refused.1);
    }

    let claims = [
        Header {
            project: beta.0,
            ..own
        },
        Header {
            calling_doee: beta.1,
            ..own
        },
        Header {
            project: beta.0,
            calling_doee: beta.1,
            ..own
        },
        Header {
            principal: PrincipalId::generate(),
            ..own
        },
    ];
    for claim in claims {
        let refused = run_sql(doer, claim, "store", "delete from items")
            .await
            .unwrap_err();
        let expected = "doer claims an identity that it does not hold";
        assert_eq!(refused, (ErrorCode::Forbidden, expected.to_owned()));
    }
    let nobodys = [
        Header {
            parent: ProcessId::generate(),
            ..own
        },
        Header {
            attempt: own.attempt + 1,
            ..own
        },
    ];
    for header in nobodys {
        let refused = run_sql(doer, header, "store", "delete from items")
            .await
            .unwrap_err();
        assert_eq!(refused.0, ErrorCode::Fenced, "{}", refused.1);
    }

    let root = Header {
        parent: ProcessId::NONE,
        project: beta.0,
        ..own
    };
    let more = [
        root,
        child_of(call, Service::Dbriver, dbriver::Operation::Drop as u16),
        Header {
            project: beta.0,
            ..child_of(call, Service::Dbriver, dbriver::Operation::Prepare as u16)
        },
        Header {
            project: beta.0,
            ..child_of(call, Service::Resadmin, resadmin::Operation::DeleteProject as u16)
        },
        child_of(call, Service::Resadmin, resadmin::Operation::CreateToken as u16),
    ];
    for header in more {
        let refused = run_sql(doer, header, "store", "delete from items")
            .await
            .unwrap_err();
        assert_eq!(refused.0, ErrorCode::Forbidden, "{header:?}: {}", refused.1);
    }
}

#[tokio::test]
async fn a_doer_that_was_taken_over_gets_nothing_of_a_project_whose_call_it_does_not_hold() {
    let Some(mut platform) = Platform::start() else {
        return;
    };
    platform.deploy(keeper("alpha", &["store"]).path());
    platform.deploy(keeper("beta", &["store", "vault"]).path());
    assert_eq!(platform.get("/beta/").text(), "1");
    platform.stop();

    let roles = Roles::start(&platform).await;
    let (edge, _edges_inbox) = roles.play(Service::Commserver).await;
    let (doer, mut inbox) = roles.play(Service::Doer).await;
    let (alpha, beta) = (find(&edge, "alpha").await, find(&edge, "beta").await);
    doer.send(slots(alpha.1)).unwrap();
    let answer = edge.start(invoke(alpha));
    let call = dispatched(&mut inbox).await;
    let header = call.message.header;
    assert_eq!((header.project, header.target_doee), alpha);

    attack(&doer, &header, beta).await;

    call.responder.reply_empty();
    answer.await.unwrap();
    let late = child_of(&header, Service::Dbriver, dbriver::Operation::Transaction as u16);
    let refused = run_sql(&doer, late, "store", "select 1").await.unwrap_err();
    assert_eq!(
        refused.0,
        ErrorCode::Fenced,
        "a call that has ended: {}",
        refused.1
    );
    doer.close().await;
    edge.close().await;
    roles.stop();

    let platform = platform.restart_after_kill();
    assert_eq!(
        platform.get("/beta/").text(),
        "2",
        "nothing was added or taken away"
    );
    assert_eq!(platform.get("/alpha/").text(), "1");
}

/// Registers as the Doer, takes a call, and sends `piece` so many times; the Kernel must cut it off, and the call's
/// caller learns that its callee is gone.
async fn check_turned(roles: &Roles, edge: &Link, piece: &[u8], times: usize) {
    let (project, version) = (ProjectId::generate(), DoeeVersion::generate());
    let header = Header::new(Kind::Register, Service::Doer, Service::Kernel);
    let registration = Message::with_body(header, &register(Service::Doer));
    let opening = [hello(b""), frames(&registration), frames(&slots(version))].concat();
    let mut stream = UnixStream::connect(roles.socket()).await.unwrap();
    stream.write_all(&opening).await.unwrap();
    let question = b"question";
    let answer = edge.start(invoke((project, version)).with_raw(&question[..]));
    let mut said = Vec::new();
    while !said.ends_with(question) {
        assert!(
            stream.read_buf(&mut said).await.unwrap() > 0,
            "closed before it was attacked"
        );
    }
    for _ in 0..times {
        if stream.write_all(piece).await.is_err() {
            break;
        }
    }
    // A reset is an end as well.
    let _ = stream.read_to_end(&mut said).await;
    let error = answer.await.unwrap_err();
    assert_eq!(error.code, ErrorCode::Crashed, "{error}");
}

#[tokio::test]
async fn a_registered_doer_that_turns_on_the_kernel_is_cut_off_and_fails_its_own_calls_only() {
    let Some(mut platform) = Platform::start() else {
        return;
    };
    platform.stop();
    let roles = Roles::start(&platform).await;
    let (edge, _edges_inbox) = roles.play(Service::Commserver).await;
    roles.announce(Service::Doer);
    let kernel = roles.kernel();
    let peak_kib = kernel.peak_kib();
    for (piece, times) in [
        (&garbage(64 * 1024)[..], 1),
        (HUGE_FRAME, 1),
        (&endless_more(), ENDLESS),
        // A READY in the middle, and a first message once again.
        (&ready(b"kernel"), 1),
        (
            &frames(&Message::with_body(
                Header::new(Kind::Register, Service::Gate, Service::Kernel),
                &register(Service::Gate),
            )),
            1,
        ),
    ] {
        tokio::time::timeout(SOON, check_turned(&roles, &edge, piece, times))
            .await
            .unwrap();
        let projects = ask_resadmin(&edge, resadmin::Operation::Projects, ProjectId::NONE).await;
        assert!(
            projects
                .message
                .decode_body::<Projects>()
                .unwrap()
                .projects
                .is_empty()
        );
    }
    assert!(kernel.is_alive());
    let growth_kib = kernel.peak_kib() - peak_kib;
    assert!(growth_kib < GROWTH_MAX_KIB, "the Kernel grew by {growth_kib} KiB");
    edge.close().await;
    roles.stop();
}
