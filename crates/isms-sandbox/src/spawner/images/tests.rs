//! Which images stay and which go. Preparing them is tested with a real spawner.

use super::*;

const START_MINUTES: u64 = 60;

fn images() -> (tempfile::TempDir, Images) {
    let directory = tempfile::tempdir().unwrap();
    let staged = directory.path().join("images");
    let roots = Err("none here".to_owned());
    let images = Images::new(directory.path().join("source"), staged, 1 << 20, roots).unwrap();
    (directory, images)
}

fn hash(number: u8) -> ImageHash {
    ImageHash([number; 32])
}

/// As if it had been staged.
fn stage(images: &mut Images, number: u8, now: Instant) {
    fs::create_dir(images.place(hash(number))).unwrap();
    images.take_over(hash(number), Form::File, now).unwrap();
}

fn on_disk(images: &Images) -> usize {
    fs::read_dir(&images.directory).unwrap().count()
}

#[test]
fn what_an_earlier_run_left_is_removed_at_the_start_and_all_at_the_end() {
    let (directory, mut images) = images();
    let staged = directory.path().join("images");
    stage(&mut images, 1, Instant::now());
    images = Images::new(directory.path().into(), staged.clone(), 1, Err(String::new())).unwrap();
    assert_eq!(on_disk(&images), 0);
    stage(&mut images, 2, Instant::now());
    images.close();
    assert!(!staged.exists());
}

#[test]
fn unused_images_go_after_a_while_all_but_a_few_and_used_ones_stay() {
    let (_directory, mut images) = images();
    let begun = Instant::now();
    let minute = |minutes: u64| begun + Duration::from_secs(60 * minutes);
    for number in 0..8 {
        stage(&mut images, number, minute(u64::from(number)));
    }
    let Readiness::Ready(held) = images.want(hash(0), Form::File, begun) else {
        panic!("staged")
    };
    images.sweep(minute(9));
    assert_eq!(on_disk(&images), 8, "none is old enough");
    images.sweep(minute(12));
    let mut left: Vec<u8> = images.staged.keys().map(|hash| hash.0[0]).collect();
    left.sort_unstable();
    assert_eq!(left, [0, 3, 4, 5, 6, 7]);
    assert_eq!(on_disk(&images), 6);
    images.sweep(minute(START_MINUTES));
    let left: Vec<u8> = images.staged.keys().map(|hash| hash.0[0]).collect();
    assert_eq!(left, [0, 5, 6, 7], "a few stay however long");
    drop(held);
}

#[test]
fn the_longest_unused_one_goes_for_a_new_one_and_never_one_in_use() {
    let (_directory, mut images) = images();
    let now = Instant::now();
    let mut held = Vec::new();
    for number in 0..IMAGES_MAX as u8 {
        stage(&mut images, number, now + Duration::from_secs(number.into()));
        match images.want(hash(number), Form::File, now) {
            Readiness::Ready(image) => held.push(image),
            other => panic!("{other:?}"),
        }
    }
    match images.want(hash(99), Form::File, now) {
        Readiness::Refused(message) => assert!(message.contains("32 images in use"), "{message}"),
        other => panic!("{other:?}"),
    }
    held.remove(5);
    assert!(images.make_room());
    assert!(!images.staged.contains_key(&hash(5)));
    assert_eq!(on_disk(&images), IMAGES_MAX - 1);
}

#[test]
fn where_no_root_can_be_made_the_reason_is_given_and_the_file_is_still_staged() {
    let (_directory, mut images) = images();
    stage(&mut images, 1, Instant::now());
    match images.want(hash(1), Form::Root, Instant::now()) {
        Readiness::Refused(message) => assert_eq!(message, "none here"),
        other => panic!("{other:?}"),
    }
    let file = images.want(hash(1), Form::File, Instant::now());
    assert!(matches!(file, Readiness::Ready(_)), "{file:?}");
}

#[test]
fn an_image_is_named_by_all_digits_of_its_hash() {
    assert_eq!(hash(0x0a).to_string(), "0a".repeat(32));
}
