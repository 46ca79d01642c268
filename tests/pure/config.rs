//! `sagad config` and the command line's frame, as a process.

use std::path::Path;
use std::process::{Command, Output};

/// Runs sagad in `folder` with these variables only.
fn sagad(folder: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sagad"));
    command.current_dir(folder).env_clear().envs(variables.iter().copied()).args(arguments);
    command.output().expect("sagad runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

#[test]
fn the_effective_configuration_is_shown_without_secrets() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(folder.path().join("config")).expect("a folder");
    let file = "store.url = \"postgres://ann:hunter2@db/sagad\"\nbroker.prefix = \"one\"\n";
    std::fs::write(folder.path().join("config/sagad.toml"), file).expect("written");
    let token =
        "[[http.tokens]]\nname = \"ann\"\nrole = \"operator\"\nsecret_env = \"ANN\"\n[broker]\nprefix = \"two\"\n";
    std::fs::write(folder.path().join("more.toml"), token).expect("written");
    let variables = [("ANN", "hunter3-hunter3-hunter3"), ("SAGAD__HTTP__LISTEN", "0.0.0.0:80")];
    for json in [false, true] {
        let mut arguments = vec!["config", "--config", "more.toml"];
        arguments.extend(json.then_some("--json"));
        let output = sagad(folder.path(), &arguments, &variables);
        let shown = text(&output.stdout);
        assert!(output.status.success() && output.stderr.is_empty(), "{}", text(&output.stderr));
        assert!(!shown.contains("hunter"), "{shown}");
        let value: serde_json::Value = match json {
            true => serde_json::from_str(&shown).expect("JSON"),
            false => toml::from_str(&shown).expect("TOML"),
        };
        assert_eq!(value["store"]["url"], "postgres://ann:***@db/sagad");
        assert_eq!(value["broker"]["prefix"], "two");
        assert_eq!(value["http"]["listen"], "0.0.0.0:80");
        assert_eq!(value["http"]["tokens"][0]["secret"], "***");
        assert_eq!(value["delay"]["sweep"], "5s");
    }
}

/// Only a daemon needs the secrets that its configuration takes from the environment.
#[test]
fn whoever_does_not_serve_needs_no_secrets() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    std::fs::create_dir(at("config")).expect("a folder");
    std::fs::create_dir(at("sagas")).expect("a folder");
    let token = "[[http.tokens]]\nname = \"ann\"\nrole = \"operator\"\nsecret_env = \"ANN\"\n";
    std::fs::write(at("config/sagad.toml"), token).expect("written");
    let saga = "name = 'a'\n[[steps]]\nname = 's'\nexchange = 'e'\ncommand = 'c'\n";
    std::fs::write(at("sagas/a.toml"), saga).expect("written");
    let scenario = "saga = 'a'\n[[scenario]]\nname = 'it'\nexpect.status = 'completed'\n";
    std::fs::write(at("sagas/a.test.toml"), scenario).expect("written");
    for arguments in [
        &["config"][..],
        &["check"],
        &["test"],
        &["graph", "a"],
        &["explore", "a"],
        &["schema"],
        &["asyncapi"],
        &["migrate"],
        &["verify"],
    ] {
        let output = sagad(folder.path(), arguments, &[]);
        assert!(output.status.success(), "{arguments:?}: {}{}", text(&output.stdout), text(&output.stderr));
    }
    let output = sagad(folder.path(), &["serve"], &[]);
    let why = "sagad: the configuration is wrong:\nconfig/sagad.toml:4:1: http.tokens[0].secret_env: the environment has no variable `ANN`\n";
    assert_eq!((output.status.code(), &*text(&output.stderr)), (Some(2), why));
}

#[test]
fn exit_codes_tell_wrong_usage_from_success() {
    let folder = tempfile::tempdir().expect("a folder");
    let code = |arguments: &[&str], variables: &[(&str, &str)]| {
        let output = sagad(folder.path(), arguments, variables);
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    for arguments in [&["--help"][..], &["--version"], &["config", "--help"], &["config"]] {
        let (status, out, err) = code(arguments, &[]);
        assert_eq!((status, err.as_str()), (Some(0), ""), "{arguments:?}");
        assert!(!out.is_empty(), "{arguments:?}");
    }
    for arguments in [&[][..], &["nonsense"], &["config", "--nonsense"], &["config", "--config", "absent.toml"]] {
        let (status, out, err) = code(arguments, &[]);
        assert_eq!((status, out.as_str()), (Some(2), ""), "{arguments:?}");
        assert!(!err.is_empty(), "{arguments:?}");
    }
    for command in ["config", "serve", "check", "migrate", "verify"] {
        let variables = [("SAGAD__HTTP__LISTEN", "0.0.0.0:80"), ("SAGAD__STORE__URLL", "x")];
        let (status, _, err) = code(&[command], &variables);
        assert_eq!(status, Some(2), "{command}: {err}");
        assert!(err.contains("SAGAD__HTTP__LISTEN: http.listen: ") && err.contains("did you mean `url`?"), "{err}");
    }
}
