//! Every message survives its encoding; every other byte string is refused.

use super::*;

const LIMITS: Limits = Limits {
    memory_bytes: 1 << 40,
    cpu_permille: 0x0102_0304,
    cpu_weight: 0x0506_0708,
    pids: 0x0a0b_0c0d,
};

const IMAGE: Environment = Environment {
    backend: Backend::Apptainer,
    image: Some(ImageHash([0xab; 32])),
    holes: Holes {
        devices: 1 << 63,
        directories: 5,
        network: false,
    },
    ..Environment::WORKER
};
const NETWORK: Environment = Environment {
    holes: Holes {
        devices: 0,
        directories: 0,
        network: true,
    },
    ..Environment::BUILDER
};

fn requests() -> [Request; 6] {
    [
        Request::Spawn {
            worker: 7,
            environment: Environment::WORKER,
            limits: LIMITS,
        },
        Request::Spawn {
            worker: u64::MAX,
            environment: Environment::BUILDER,
            limits: LIMITS,
        },
        Request::Kill { worker: 0 },
        Request::Limit {
            worker: 9,
            limits: LIMITS,
        },
        Request::Spawn {
            worker: 8,
            environment: IMAGE,
            limits: LIMITS,
        },
        Request::Spawn {
            worker: 8,
            environment: NETWORK,
            limits: LIMITS,
        },
    ]
}

fn layer(name: &str, detail: &str) -> LayerReport {
    LayerReport {
        name: name.to_owned(),
        proven: true,
        detail: detail.to_owned(),
        required: false,
    }
}

fn events() -> Vec<Event> {
    vec![
        Event::Spawned { worker: 7, pid: 4711 },
        Event::Failed {
            worker: u64::MAX,
            message: "über".to_owned(),
        },
        Event::Exited {
            worker: 1,
            code: Some(-1),
            signal: None,
            oom: false,
        },
        Event::Exited {
            worker: 1,
            code: None,
            signal: Some(9),
            oom: true,
        },
        Event::Layers {
            layers: Vec::new(),
            sufficient: false,
        },
        Event::Layers {
            layers: vec![layer("seccomp", "socket was refused"), layer("", "")],
            sufficient: true,
        },
    ]
}

#[test]
fn a_request_has_these_bytes() {
    let spawn = Request::Spawn {
        worker: 0x1122,
        environment: IMAGE,
        limits: LIMITS,
    };
    let expected = [
        1, 0, 1, 1, 8, 7, 6, 5, 0x22, 0x11, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 4, 3, 2, 1, 0x0d, 0x0c,
        0x0b, 0x0a, 0, 0, 0, 0, 0, 0, 0, 0x80, 5, 0, 0, 0, 0, 0, 0, 0,
    ];
    assert_eq!(spawn.encode(), [&expected[..], &[0xab; 32]].concat()[..]);
}

#[test]
fn what_cannot_exist_is_refused() {
    let refused = |environment| {
        let request = Request::Spawn {
            worker: 1,
            environment,
            limits: LIMITS,
        };
        assert_eq!(
            Request::decode(&request.encode()),
            Err(DecodeError::Value),
            "{request:?}"
        );
    };
    refused(Environment { image: None, ..IMAGE });
    refused(Environment {
        profile: Profile::Builder,
        ..IMAGE
    });
    refused(Environment {
        holes: IMAGE.holes,
        ..Environment::BUILDER
    });
    refused(Environment {
        holes: NETWORK.holes,
        ..Environment::WORKER
    });
}

#[test]
fn requests_and_events_survive_their_encoding() {
    for request in requests() {
        assert_eq!(Request::decode(&request.encode()), Ok(request));
    }
    for event in events() {
        assert_eq!(Event::decode(&event.encode()), Ok(event));
    }
}

#[test]
fn a_request_of_another_length_is_refused() {
    for request in requests() {
        let bytes = request.encode();
        for len in 0..REQUEST_LEN {
            assert_eq!(Request::decode(&bytes[..len]), Err(DecodeError::Length), "{len}");
        }
        assert_eq!(
            Request::decode(&[&bytes[..], &[0]].concat()),
            Err(DecodeError::Length)
        );
    }
}

#[test]
fn any_value_of_any_byte_is_refused_or_means_just_itself() {
    for request in requests() {
        for position in 0..REQUEST_LEN {
            for value in 0..=u8::MAX {
                let mut bytes = request.encode();
                bytes[position] = value;
                if let Ok(other) = Request::decode(&bytes) {
                    assert_eq!(other.encode(), bytes, "{other:?}");
                }
            }
        }
    }
}

#[test]
fn unknown_kinds_profiles_and_set_reserved_bytes_are_refused() {
    let changed = |position: usize, value| {
        let mut bytes = requests()[2].encode();
        bytes[position] = value;
        Request::decode(&bytes)
    };
    for (position, value) in [
        (0, 0),
        (0, 4),
        (0, 255),
        (1, 1),
        (2, 1),
        (3, 1),
        (7, 1),
        (16, 1),
        (31, 1),
        (79, 1),
    ] {
        assert_eq!(
            changed(position, value),
            Err(DecodeError::Value),
            "byte {position}"
        );
    }
    let mut spawn = requests()[0].encode();
    spawn[1] = 2;
    assert_eq!(Request::decode(&spawn), Err(DecodeError::Value));
    spawn[1] = 0;
    for flags in [1 << 2, 1 << 7] {
        spawn[3] = flags;
        assert_eq!(Request::decode(&spawn), Err(DecodeError::Value), "flags {flags}");
    }
}

#[test]
fn a_cut_or_stretched_event_is_refused_and_a_changed_one_does_no_harm() {
    for event in events() {
        let bytes = event.encode();
        for len in 0..bytes.len() {
            assert!(Event::decode(&bytes[..len]).is_err(), "{event:?} cut to {len}");
        }
        assert!(Event::decode(&[&bytes[..], &[0]].concat()).is_err(), "{event:?}");
        for position in 0..bytes.len() {
            for value in [0, 1, 2, 0x7f, 0x80, 0xff] {
                let mut changed = bytes.clone();
                changed[position] = value;
                let _ = Event::decode(&changed);
            }
        }
    }
}

#[test]
fn the_longest_event_fits_and_its_texts_are_cut_between_characters() {
    let long = "ü".repeat(10_000);
    let failed = Event::Failed {
        worker: 1,
        message: long.clone(),
    }
    .encode();
    assert!(failed.len() <= HEAD_LEN + MESSAGE_LEN_MAX);
    assert!(matches!(Event::decode(&failed), Ok(Event::Failed { .. })));
    let layers = Event::Layers {
        layers: vec![layer(&long, &long); 100],
        sufficient: true,
    }
    .encode();
    assert!(layers.len() <= EVENT_LEN_MAX, "{}", layers.len());
    let Ok(Event::Layers { layers, .. }) = Event::decode(&layers) else {
        panic!("no layers")
    };
    assert_eq!((layers.len(), layers[0].name.len()), (LAYERS_MAX, 254));
}

#[test]
fn the_supervisor_s_words_are_single_letters() {
    for word in [ToSpawner::Doer, ToSpawner::Stop] {
        assert_eq!(ToSpawner::decode(&word.encode()), Ok(word));
    }
    for word in [FromSpawner::Ready, FromSpawner::Heartbeat] {
        assert_eq!(FromSpawner::decode(&word.encode()), Ok(word));
    }
    assert_eq!(ToSpawner::decode(b""), Err(DecodeError::Length));
    assert_eq!(ToSpawner::decode(b"DD"), Err(DecodeError::Length));
    assert_eq!(ToSpawner::decode(b"R"), Err(DecodeError::Value));
    assert_eq!(FromSpawner::decode(b"D"), Err(DecodeError::Value));
}
