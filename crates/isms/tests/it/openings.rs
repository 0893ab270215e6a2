//! Openings in the walls on the running platform: there where both sides agree, nowhere else.

use crate::{
    harness::Platform,
    project::{Project, c_doee, manifest},
};

/// A project whose Doee tries to use a device and to read a file, and says how far it came.
fn project(name: &str, keys: &str) -> Project {
    let execute = r#"
        char text[200] = "";
        FILE *file = fopen("/data/maps/map", "r");
        if (file) { size_t len = fread(text, 1, 100, file); text[len] = 0; fclose(file); } else strcat(text, "no map");
        FILE *device = fopen("/dev/full", "w");
        if (!device) strcat(text, ", no device");
        else { setbuf(device, NULL); strcat(text, fputc('x', device) == EOF ? ", full" : ", written"); fclose(device); }
        strcat(text, fopen("/data/maps/new", "w") ? ", changed" : ", kept");
        return say(call, text);"#;
    Project::new(&manifest(name, keys)).file("doees/main/main.c", c_doee(execute))
}

fn refused(platform: &Platform, project: &Project) -> String {
    let output = platform.isms(&["deploy", project.path().to_str().unwrap()]);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(3), "{error}");
    error
}

#[test]
fn devices_and_directories_are_there_for_who_asks_and_is_allowed() {
    let maps = tempfile::Builder::new()
        .prefix("isms-test-maps-")
        .tempdir()
        .unwrap();
    let directory = maps.path().join("maps");
    std::fs::create_dir(&directory).unwrap();
    std::fs::write(directory.join("map"), "a map").unwrap();
    // The worker's user passes through to what is opened for it.
    for path in [maps.path(), directory.as_path()] {
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(path, open).unwrap();
    }
    let listed = format!("directories = ['{}']", directory.display());
    let settings = ["[workers]", "device_nodes = ['/dev/full']", &listed];
    let Some(platform) = Platform::start_with(&settings) else {
        return;
    };
    let allow = format!(
        "allow = {{ device_nodes = [\"/dev/full\"], directories = [\"{}\"] }}",
        directory.display()
    );
    platform.deploy(project("granted", &allow).path());
    assert_eq!(platform.get("/granted/").text(), "a map, full, kept");
    platform.deploy(project("plain", "").path());
    assert_eq!(platform.get("/plain/").text(), "no map, no device, kept");
}

#[test]
fn what_the_administrator_has_not_listed_is_refused_with_the_setting_and_the_old_version_serves() {
    let Some(platform) = Platform::start_with(&["[workers]", "device_nodes = ['/dev/full']"]) else {
        return;
    };
    platform.deploy(project("site", "").path());
    for (keys, path, setting) in [
        (
            "allow = { device_nodes = [\"/dev/null\"] }",
            "/dev/null",
            "[workers] device_nodes",
        ),
        (
            "allow = { directories = [\"/etc\"] }",
            "/etc",
            "[workers] directories",
        ),
        (
            "[build]\nnetwork = true",
            "build.network",
            "[build] network = true",
        ),
    ] {
        let error = refused(&platform, &project("site", keys));
        assert!(error.contains(path) && error.contains(setting), "{error}");
        assert_eq!(platform.get("/site/").text(), "no map, no device, kept");
    }
}

#[test]
fn a_device_that_is_listed_and_not_plugged_in_fails_the_deployment() {
    let Some(platform) = Platform::start_with(&["[workers]", "device_nodes = ['/dev/isms-not-there']"])
    else {
        return;
    };
    let error = refused(
        &platform,
        &project("site", "allow = { device_nodes = [\"/dev/isms-not-there\"] }"),
    );
    assert!(
        error.contains("/dev/isms-not-there") && error.contains("doee main"),
        "{error}"
    );
}

#[test]
fn a_build_with_network_works_where_the_administrator_allows_it() {
    let Some(platform) = Platform::start_with(&["[build]", "network = true"]) else {
        return;
    };
    platform.deploy(project("site", "[build]\nnetwork = true").path());
    assert_eq!(platform.get("/site/").text(), "no map, no device, kept");
}
