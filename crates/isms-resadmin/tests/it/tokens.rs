//! Tokens over their life, and who may do what with them.

use std::sync::atomic::Ordering;

use isms_protocol::{
    ErrorCode, Header, PrincipalId, Service as Role, TokenHash, WireError,
    resadmin::{
        Authenticate, CreateToken, CreatedToken, DeployEvent, Operation, Principal, RevokeToken, Right,
        Tokens,
    },
};
use sha2::{Digest, Sha256};

use crate::harness::{ADMIN, Harness, all, failure, header};

const FILES: &[(&str, &[u8])] = &[
    (
        "project.toml",
        b"[project]\nname = \"shop\"\n[doee.a]\nlanguage = \"c\"\nsource = \"a\"\n",
    ),
    ("a/a.c", b""),
];

fn hash(token: &str) -> TokenHash {
    TokenHash(Sha256::digest(token.as_bytes()).into())
}

async fn who(harness: &Harness, token: TokenHash) -> Result<Principal, WireError> {
    harness
        .body(
            &header(Role::Commserver, Operation::Authenticate),
            &Authenticate { token },
        )
        .await
}

async fn create(
    harness: &Harness,
    principal: PrincipalId,
    project: Option<&str>,
    rights: &[Right],
    expires_in_s: Option<u64>,
) -> Result<CreatedToken, WireError> {
    let header = Header {
        principal,
        ..header(Role::Gate, Operation::CreateToken)
    };
    let project = project.map(Into::into);
    harness
        .body(
            &header,
            &CreateToken {
                name: "ci".into(),
                project,
                rights: rights.into(),
                expires_in_s,
            },
        )
        .await
}

async fn list(harness: &Harness, principal: PrincipalId) -> Result<Tokens, WireError> {
    harness
        .body(
            &Header {
                principal,
                ..header(Role::Gate, Operation::ListTokens)
            },
            &(),
        )
        .await
}

async fn revoke(harness: &Harness, principal: PrincipalId, id: PrincipalId) -> Result<(), WireError> {
    let header = Header {
        principal,
        ..header(Role::Gate, Operation::RevokeToken)
    };
    harness.empty(&header, &RevokeToken { id }).await
}

#[tokio::test]
async fn a_token_is_known_until_it_expires_or_is_revoked_and_over_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let harness = Harness::open(directory.path()).await;
    let admin = harness.admin().await;
    let short = create(&harness, admin, None, &[Right::Read, Right::Invoke], Some(60))
        .await
        .unwrap();
    let long = create(&harness, admin, None, &[Right::Deploy], None)
        .await
        .unwrap();
    assert!(short.token.starts_with("isms_") && short.token.len() == 69 && short.token != long.token);
    let expected = Principal {
        id: short.id,
        name: "ci".into(),
        project: None,
        rights: vec![Right::Invoke, Right::Read],
        expires_at_s: Some(1_060),
    };
    assert_eq!(who(&harness, hash(&short.token)).await.unwrap(), expected);
    drop(harness);

    let harness = Harness::open(directory.path()).await;
    let names: Vec<_> = list(&harness, admin)
        .await
        .unwrap()
        .tokens
        .into_iter()
        .map(|token| token.id)
        .collect();
    assert_eq!(names, [admin, short.id, long.id]);
    harness.now.store(1_059, Ordering::Relaxed);
    who(&harness, hash(&short.token))
        .await
        .expect("has a second left");
    harness.now.store(1_060, Ordering::Relaxed);
    let message = "the token is unknown, revoked or expired";
    let unauthenticated = (ErrorCode::Unauthenticated, message.to_owned());
    assert_eq!(failure(who(&harness, hash(&short.token)).await), unauthenticated);
    revoke(&harness, admin, long.id).await.unwrap();
    assert_eq!(failure(who(&harness, hash(&long.token)).await), unauthenticated);
    assert_eq!(
        failure(revoke(&harness, admin, long.id).await).0,
        ErrorCode::NotFound
    );
    assert_eq!(failure(who(&harness, TokenHash([1; 32])).await), unauthenticated);
}

#[tokio::test]
async fn a_new_administrators_token_replaces_the_former_one_and_cannot_be_revoked() {
    let directory = tempfile::tempdir().unwrap();
    let admin = Harness::open(directory.path()).await.admin().await;
    let (requests, _asked) = tokio::sync::mpsc::channel(1);
    let config = isms_resadmin::Config::new(directory.path(), TokenHash([9; 32]));
    let clock = std::sync::Arc::new(|| 1_000);
    drop(
        isms_resadmin::Service::open(config, requests, clock)
            .await
            .unwrap(),
    );

    // Opening with the first hash again makes it the administrator's again.
    let harness = Harness::open(directory.path()).await;
    assert_eq!(
        failure(who(&harness, TokenHash([9; 32])).await).0,
        ErrorCode::Unauthenticated
    );
    assert_eq!(who(&harness, ADMIN).await.unwrap().id, admin);
    assert_eq!(
        failure(revoke(&harness, admin, admin).await).0,
        ErrorCode::NotFound
    );
}

#[tokio::test]
async fn rights_and_scope_are_checked_by_resadmin_itself() {
    let directory = tempfile::tempdir().unwrap();
    let harness = Harness::open(directory.path()).await;
    let admin = harness.admin().await;
    harness.deploy_well(FILES).await;
    let shop = harness.describe("shop").await.unwrap().id;
    let reader = create(&harness, admin, None, &[Right::Read], None)
        .await
        .unwrap()
        .id;
    let deployer = create(&harness, admin, Some("shop"), &[Right::Deploy], None)
        .await
        .unwrap()
        .id;
    let owner = create(&harness, admin, Some("shop"), &[Right::Admin], None)
        .await
        .unwrap()
        .id;

    let lacks = |right: &str| {
        (
            ErrorCode::Forbidden,
            format!("the token lacks the right {right} for this"),
        )
    };
    for nobody in [PrincipalId::NONE, reader] {
        assert_eq!(
            failure(create(&harness, nobody, None, &[Right::Read], None).await),
            lacks("admin")
        );
        assert_eq!(failure(list(&harness, nobody).await), lacks("admin"));
        assert_eq!(failure(revoke(&harness, nobody, reader).await), lacks("admin"));
        assert_eq!(
            failure(harness.begin_deploy_as(nobody, None, FILES).await),
            lacks("deploy")
        );
        let delete = Header {
            principal: nobody,
            project: shop,
            ..header(Role::Gate, Operation::DeleteProject)
        };
        assert_eq!(failure(harness.empty(&delete, &()).await), lacks("deploy"));
    }
    assert_eq!(
        failure(create(&harness, owner, None, &[Right::Admin], None).await),
        lacks("admin")
    );
    assert_eq!(failure(revoke(&harness, owner, reader).await), lacks("admin"));
    assert_eq!(list(&harness, owner).await.unwrap().tokens.len(), 2);
    create(&harness, owner, Some("shop"), &[Right::Invoke], None)
        .await
        .expect("its own project");

    let own = all(harness.begin_deploy_as(deployer, None, FILES).await.unwrap()).await;
    assert!(matches!(
        own.last(),
        Some(DeployEvent::Deployed { revision: 2, .. })
    ));
    let other: &[(&str, &[u8])] = &[
        (
            "project.toml",
            b"[project]\nname = \"other\"\n[doee.a]\nbinary = \"a.so\"\n",
        ),
        ("a.so", b""),
    ];
    let foreign = all(harness.begin_deploy_as(deployer, None, other).await.unwrap()).await;
    let message = "this token may not deploy the project other";
    assert_eq!(
        foreign,
        [DeployEvent::Failed {
            code: "Forbidden".into(),
            message: message.into()
        }]
    );
    let claimed = isms_protocol::ProjectId::from_bytes([3; 16]);
    assert_eq!(
        failure(harness.begin_deploy_as(deployer, Some(claimed), FILES).await),
        lacks("deploy")
    );
}

#[tokio::test]
async fn requests_that_make_no_sense_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let harness = Harness::open(directory.path()).await;
    let admin = harness.admin().await;
    let invalid = |result| failure::<CreatedToken>(result).0;
    assert_eq!(
        invalid(create(&harness, admin, None, &[], None).await),
        ErrorCode::Invalid
    );
    assert_eq!(
        invalid(create(&harness, admin, None, &[Right::Read], Some(0)).await),
        ErrorCode::Invalid
    );
    assert_eq!(
        invalid(create(&harness, admin, Some("none"), &[Right::Read], None).await),
        ErrorCode::NotFound
    );
    let header = header(Role::Gate, Operation::CreateToken);
    let garbage = harness
        .service
        .handle(&header, b"\xc1", bytes::Bytes::new())
        .await;
    assert_eq!(failure(garbage).0, ErrorCode::Invalid);
    let unknown = Header {
        operation: 99,
        ..header
    };
    assert_eq!(failure(harness.empty(&unknown, &()).await).0, ErrorCode::Invalid);
}

#[tokio::test]
async fn each_service_may_ask_for_its_own_things_only() {
    let directory = tempfile::tempdir().unwrap();
    let harness = Harness::open(directory.path()).await;
    let mut refused = Vec::new();
    for sender in [
        Role::Kernel,
        Role::Doer,
        Role::Dbriver,
        Role::Commserver,
        Role::Gate,
        Role::Worker,
    ] {
        for operation in Operation::ALL {
            let answer = harness
                .service
                .handle(&header(sender, *operation), &[], bytes::Bytes::new())
                .await;
            let message = format!("{sender} may not ask Resadmin for {}", operation.name());
            if answer.is_err_and(|error| error.message == message) {
                refused.push(format!("{sender} {}", operation.name()));
            }
        }
    }
    assert_eq!(refused.len(), 6 * 18 - 24, "{refused:?}");
    assert!(
        refused.contains(&"worker authenticate".to_owned()) && refused.contains(&"gate binary".to_owned())
    );
    assert!(
        refused.contains(&"commserver deploy".to_owned())
            && refused.contains(&"doer create-token".to_owned())
    );
}
