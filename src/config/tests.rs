//! What the configuration takes and refuses.

use super::*;

fn layered(files: &[(&str, &str)], variables: &[(&str, &str)]) -> Result<Config, ConfigErrors> {
    let owned = |(a, b): &(&str, &str)| ((*a).to_owned(), (*b).to_owned());
    let environment: BTreeMap<String, String> = variables.iter().map(owned).collect();
    let files: Vec<(String, String)> = files.iter().map(owned).collect();
    check::check(layers::merge(&files, &environment, Vec::new())?, &environment)
}

fn errors(toml: &str) -> Vec<String> {
    match Config::parse("f", toml) {
        Ok(config) => panic!("accepted: {config:?}"),
        Err(errors) => errors.0.iter().map(ToString::to_string).collect(),
    }
}

#[test]
fn each_layer_goes_over_the_one_before() {
    let files = [
        (
            "a",
            "[store]\nurl = \"sqlite://a.db\"\nmigrate_on_start = false\nretention = \"30d\"\n[broker]\nprefix = \"a\"",
        ),
        ("b", "[store]\nurl = \"sqlite://b.db\"\n[http]\nmax_body = 5"),
    ];
    let variables = [
        ("SAGAD__STORE__URL", "postgres://u@h/d"),
        ("SAGAD__HTTP__MAX_BODY", "77"),
        ("SAGAD__DEFINITIONS__WATCH", "false"),
        ("SAGAD__DELAY__SWEEP", "1500ms"),
        ("SAGAD_URL", "for the client, not for this"),
    ];
    let config = layered(&files, &variables).unwrap();
    assert_eq!(config.store.url, "postgres://u@h/d");
    assert!(!config.store.migrate_on_start);
    assert_eq!(config.store.retention, Some(Duration::from_secs(30 * 24 * 3600)));
    assert_eq!(config.broker.prefix, "a");
    assert_eq!(config.http.max_body, 77);
    assert!(!config.definitions.watch);
    assert_eq!(config.delay.sweep, Duration::from_millis(1500));
}

#[test]
fn the_shipped_file_says_the_defaults() {
    let shipped = Config::parse("config/sagad.toml", include_str!("../../config/sagad.toml")).unwrap();
    let Config { topology, .. } = &shipped;
    assert_eq!(topology.exchanges.len(), 3);
    assert!(topology.queues.iter().any(|queue| queue.max_priority == Some(9)));
    let bare = Config { topology: Topology::default(), ..shipped.clone() };
    assert_eq!(bare.to_toml().unwrap(), Config::parse("", "").unwrap().to_toml().unwrap());
}

#[test]
fn what_is_shown_can_be_read_again() {
    let shipped = Config::parse("config/sagad.toml", include_str!("../../config/sagad.toml")).unwrap();
    let toml = shipped.to_toml().unwrap();
    // The broker's password is the one thing hidden.
    assert!(toml.contains("amqp://guest:***@127.0.0.1:5672/%2f"), "{toml}");
    assert_eq!(Config::parse("shown", &toml).unwrap().to_toml().unwrap(), toml);
}

#[test]
fn secrets_are_not_shown() {
    let config = layered(
        &[("f", "[[http.tokens]]\nname = \"a\"\nrole = \"viewer\"\nsecret_env = \"T\"")],
        &[("T", "0123456789abcdef"), ("SAGAD__STORE__URL", "postgres://u@h/d?password=hunter2&sslmode=require")],
    )
    .unwrap();
    let shown = format!("{}{}{config:?}", config.to_toml().unwrap(), serde_json::to_string(&config).unwrap());
    assert!(!shown.contains("0123456789abcdef") && !shown.contains("hunter2"), "{shown}");
    assert!(shown.contains("sslmode=require"), "{shown}");
    assert_eq!(without_password("postgres://u:p%40ss@h:1/d"), "postgres://u:***@h:1/d");
    assert_eq!(without_password("sqlite://sagad.db?mode=rwc"), "sqlite://sagad.db?mode=rwc");
    assert_eq!(without_password("nonsense with a password"), "***");
}

#[test]
fn unknown_keys_say_where_and_what_was_meant() {
    let found = errors("[http]\nlisten = \"127.0.0.1:1\"\n  max_boddy = 1\n[htpp]\nx = 1");
    assert_eq!(
        found,
        [
            "f:3:3: http.max_boddy: unknown key; did you mean `max_body`?",
            "f:5:1: htpp: unknown key; did you mean `http`?",
        ]
    );
    let Err(ConfigErrors(errors)) = layered(&[], &[("SAGAD__STORE__URI", "x"), ("SAGAD__A__0__B", "x")]) else {
        panic!("accepted")
    };
    let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(lines[0], "SAGAD__STORE__URI: store.uri: unknown key; did you mean `url`?");
    assert!(lines[1].starts_with("SAGAD__A__0__B: a: unknown key"), "{lines:?}");
}

#[test]
fn everything_wrong_is_found_at_once() {
    let found = errors(
        r#"
        shutdown_grace = 10
        [store]
        url = "mysql://root:hunter2@h/d"
        retention = "0s"
        [broker]
        url = "amqp://u:hunter2@h:99999/"
        prefix = "amq.x"
        prefetch = 0
        max_message = 0
        [delay]
        sweep = "0s"
        [http]
        listen = "127.0.0.1:70000"
        max_body = -1
        [telemetry]
        log = "info,=,"
        "#,
    );
    let keys: Vec<&str> = found.iter().map(|line| line.split(": ").nth(1).unwrap_or_default()).collect();
    for key in [
        "shutdown_grace",
        "store.url",
        "store.retention",
        "broker.url",
        "broker.prefix",
        "broker.prefetch",
        "broker.max_message",
        "delay.sweep",
        "http.listen",
        "http.max_body",
        "telemetry.log",
    ] {
        assert!(keys.contains(&key), "{key} is not among {found:#?}");
    }
    assert_eq!(found.len(), 11, "{found:#?}");
    assert!(!found.concat().contains("hunter2"), "{found:#?}");
}

#[test]
fn syntax_errors_of_all_files_have_a_place() {
    let Err(ConfigErrors(errors)) = layered(&[("a", "[x\n"), ("b", "\n\ny = = 1")], &[]) else { panic!("accepted") };
    assert!(errors.iter().any(|error| error.place.as_deref().is_some_and(|at| at.starts_with("a:1:"))), "{errors:?}");
    assert!(errors.iter().any(|error| error.place.as_deref().is_some_and(|at| at.starts_with("b:3:"))), "{errors:?}");
}

#[test]
fn tokens_have_rules() {
    let token = |rest: &str| format!("[[http.tokens]]\nname = \"a\"\nrole = \"operator\"\n{rest}\n");
    let good = token("secret = \"0123456789abcdef\"");
    assert!(Config::parse("f", &good).is_ok_and(|config| config.can_serve().is_ok()));
    assert!(Config::parse("f", &token("secret = \"!\"")).is_ok(), "how long it is, is for whoever makes it");
    for (toml, message) in [
        (token(""), "give secret or secret_env"),
        (token("secret = \"0123456789abcdef\"\nsecret_env = \"X\""), "not both"),
        (token("secret = \"\""), "printable ASCII characters without spaces, at least one"),
        (token("secret = \"0123456789é\""), "printable ASCII"),
        (token("secret = \"0123456789 abcdef\""), "without spaces"),
        (format!("{good}{}", token("secret = \"0123456789abcdeF\"")), "`a` is there twice"),
        (format!("{good}{}", good.replace("\"a\"", "\"b\"")), "the same secret"),
        (good.replace("\"a\"", "\"\""), "must be a name"),
        (good.replace("operator", "root"), "\"viewer\" or \"operator\""),
        ("[[http.tokens]]\nsecret = \"0123456789abcdef\"".to_owned(), "http.tokens[0].role: is missing"),
    ] {
        let found = errors(&toml);
        assert!(found.iter().any(|line| line.contains(message)), "no {message:?} in {found:#?}");
        assert!(!found.concat().contains("0123456789"), "{found:#?}");
    }
}

/// Whoever checks definitions has no secrets of daemons.
#[test]
fn secrets_from_the_environment_are_needed_to_serve_only() {
    let token =
        |name: &str| format!("[[http.tokens]]\nname = \"{name}\"\nrole = \"viewer\"\nsecret_env = \"{name}\"\n");
    let text = format!("http.listen = \"0.0.0.0:1\"\n{}{}{}", token("A"), token("B"), token("C"));
    let config = layered(&[("f", &text)], &[("A", "hunter2"), ("B", "hunter2")]).unwrap();
    let Err(ConfigErrors(errors)) = config.can_serve() else { panic!("it can serve") };
    assert_eq!(
        errors.iter().map(ToString::to_string).collect::<Vec<_>>(),
        [
            "f:9:1: http.tokens[1].secret: another token has the same secret",
            "f:13:1: http.tokens[2].secret_env: the environment has no variable `C`",
        ]
    );
    let shown = config.to_toml().unwrap();
    assert!(shown.matches("***").count() == 4 && !shown.contains("hunter2"), "{shown}");
    let config = layered(&[("f", &text)], &[("A", "hunter2"), ("B", "hunter3"), ("C", "hunter4")]).unwrap();
    assert!(config.can_serve().is_ok());
    assert!(layered(&[("f", &text)], &[("A", "a b"), ("B", ""), ("C", "é")]).unwrap().can_serve().is_err());
}

#[test]
fn traces_go_nowhere_so_far() {
    assert!(Config::parse("f", "telemetry.otlp = \"\"").is_ok());
    let found = errors("[telemetry]\notlp = \"http://127.0.0.1:4317\"");
    assert_eq!(found, ["f:2:1: telemetry.otlp: this sagad does not export traces: leave it empty"]);
}

#[test]
fn listening_beyond_loopback_needs_tokens() {
    for address in ["0.0.0.0:7242", "[::]:7242", "192.0.2.1:1"] {
        let found = errors(&format!("http.listen = \"{address}\""));
        assert!(found.len() == 1 && found[0].contains("[[http.tokens]]"), "{found:?}");
    }
    for address in ["127.0.0.1:0", "127.9.9.9:7242", "[::1]:7242", "localhost:7242"] {
        assert!(Config::parse("f", &format!("http.listen = \"{address}\"")).is_ok(), "{address}");
    }
}

#[test]
fn topology_has_rules() {
    for (toml, message) in [
        ("[[topology.queues]]\nname = \"a\"\nmax_priority = 9", "quorum queues have no priorities"),
        ("[[topology.queues]]\nname = \"a\"\ntype = \"classic\"\ndelivery_limit = 5", "no delivery limit"),
        ("[[topology.queues]]\nname = \"a\"\n[[topology.queues]]\nname = \"a\"", "there twice"),
        ("[[topology.queues]]\nname = \"sagad.replies\"", "sagad's own"),
        ("[[topology.queues]]\nname = \"amq.x\"", "`amq.`"),
        ("[[topology.queues]]\nname = \"a\"\narguments = { x-message-ttl = 1 }", "write `message_ttl` instead"),
        ("[[topology.queues]]\nname = \"a\"\nbind = [{ routing_key = \"x\" }]", "bind[0].exchange: is missing"),
        ("[[topology.exchanges]]\nname = \"a\"", "exchanges[0].type: is missing"),
        ("topology.mode = \"maybe\"", "\"declare\" or \"verify\" or \"skip\""),
        ("topology.queues = 3", "must be a list of tables"),
    ] {
        let found = errors(toml);
        assert!(found.iter().any(|line| line.contains(message)), "no {message:?} in {found:#?}");
    }
}
