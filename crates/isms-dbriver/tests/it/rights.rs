//! Who may do what: the owner of the data decides.

use bytes::Bytes;
use isms_dbriver::{Config, OpenError, Service};
use isms_protocol::{
    DoeeVersion, ErrorCode, Header, ProjectId, Service as Role,
    dbriver::{Operation, Prepare, Transaction},
    encode,
};

use crate::harness::{Harness, failure, sql_of};

fn transaction(database: &str) -> Bytes {
    encode(&Transaction {
        database: database.into(),
        statements: vec![sql_of("SELECT 1", [])],
    })
    .into()
}

#[tokio::test]
async fn a_doee_reaches_only_what_its_version_was_granted() {
    let directory = tempfile::tempdir().unwrap();
    let harness = Harness::open(directory.path());
    for database in ["db", "secret"] {
        harness.prepare(database, 16, &[]).await.unwrap();
    }
    let own = harness.header(Role::Doer, Operation::Transaction);
    harness
        .service
        .handle(&own, &[], transaction("db"))
        .await
        .expect("it was granted");

    let ungranted = harness.service.handle(&own, &[], transaction("secret")).await;
    let message = "the function was not granted the database secret; add it to allow.sql";
    assert_eq!(failure(ungranted), (ErrorCode::Forbidden, message.into()));

    let elsewhere = Header {
        project: ProjectId::from_bytes([9; 16]),
        ..own
    };
    let message = "the function is not part of the project";
    let claimed = harness.service.handle(&elsewhere, &[], transaction("db")).await;
    assert_eq!(failure(claimed), (ErrorCode::Forbidden, message.into()));

    let unknown = Header {
        calling_doee: DoeeVersion::from_bytes([9; 16]),
        ..own
    };
    assert_eq!(
        failure(harness.service.handle(&unknown, &[], transaction("db")).await).0,
        ErrorCode::Forbidden
    );

    let nobody = Header {
        calling_doee: DoeeVersion::NONE,
        ..own
    };
    let message = "only a Doee of a project may use a database";
    let asked = harness.service.handle(&nobody, &[], transaction("db")).await;
    assert_eq!(failure(asked), (ErrorCode::Forbidden, message.into()));
}

#[tokio::test]
async fn only_resadmin_makes_and_deletes_databases() {
    let directory = tempfile::tempdir().unwrap();
    let harness = Harness::open(directory.path());
    let prepare: Bytes = encode(&Prepare {
        database: "db".into(),
        disk_mb: 1,
        migrations: vec![],
    })
    .into();
    for sender in [Role::Doer, Role::Commserver, Role::Gate, Role::Worker] {
        for (operation, payload) in [
            (Operation::Prepare, prepare.clone()),
            (Operation::Drop, Bytes::new()),
        ] {
            let header = harness.header(sender, operation);
            assert_eq!(
                failure(harness.service.handle(&header, &[], payload).await).0,
                ErrorCode::Forbidden,
                "{sender}"
            );
        }
    }
}

#[tokio::test]
async fn names_and_bytes_that_make_no_sense_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let harness = Harness::open(directory.path());
    let header = harness.header(Role::Doer, Operation::Transaction);
    for name in ["", "..", "../other", "a/b", "A", "1a", "a_b", &"a".repeat(64)] {
        let refused = failure(harness.service.handle(&header, &[], transaction(name)).await);
        let message = "a database's name is [a-z][a-z0-9-]*, at most 63 characters";
        assert_eq!(refused, (ErrorCode::Invalid, message.into()), "{name}");
    }
    for bytes in [
        &b""[..],
        b"\xc1",
        b"\xdd\xff\xff\xff\xff",
        b"\x92\xa2db\xdd\xff\xff\xff\xff",
    ] {
        let (code, message) = failure(
            harness
                .service
                .handle(&header, &[], Bytes::from_static(bytes))
                .await,
        );
        assert_eq!(code, ErrorCode::Invalid);
        assert!(
            message.starts_with("the request cannot be decoded: "),
            "{message}"
        );
    }
    let unknown = Header {
        operation: 99,
        ..header
    };
    assert_eq!(
        failure(harness.service.handle(&unknown, &[], Bytes::new()).await).0,
        ErrorCode::Invalid
    );
    let long = Bytes::from(vec![0; 8 * 1024 * 1024 + 1]);
    assert_eq!(
        failure(harness.service.handle(&header, &[], long).await).0,
        ErrorCode::TooLarge
    );
}

#[tokio::test]
async fn a_directory_of_a_later_release_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("format"), "2\n").unwrap();
    let (requests, _asked) = tokio::sync::mpsc::channel(1);
    let opened = Service::open(Config::new(directory.path()), requests).map(drop);
    assert!(matches!(opened, Err(OpenError::Format { found, .. }) if found == "2"));
}
