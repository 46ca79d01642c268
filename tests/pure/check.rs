//! `sagad check`: places, excerpts, exit codes, JSON; all problems of all files at once.

use std::path::{Path, PathBuf};
use std::process::Command;

use sagad::broker::topology::TopologyPlan;
use sagad::config::Config;
use sagad::core::diagnostic::{Diagnostic, Severity};
use sagad::core::parse::parse;
use sagad::report::{Finding, place, render};
use sagad::routing;
use serde_json::{Value, json};
use tempfile::TempDir;

const FLAWLESS: &str = "\
name = \"flawless\"
defaults.exchange = \"shop.commands\"
[[steps]]
name = \"pay\"
command = \"payment.charge\"
compensate = false
";

/// A working directory of files.
struct Folder(TempDir);

impl Folder {
    fn of(files: &[(&str, &[u8])]) -> Folder {
        let folder = Folder(TempDir::new().unwrap());
        for (name, content) in files {
            let path = folder.path(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// `sagad check ARGS` in this directory: exit code, standard output, standard error.
    fn check(&self, args: &[&str]) -> (i32, String, String) {
        let mut sagad = Command::new(env!("CARGO_BIN_EXE_sagad"));
        let output = sagad.arg("check").args(args).current_dir(self.0.path()).env_clear().output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    }

    /// `sagad ARGS` in this directory: exit code, standard error.
    fn sagad(&self, args: &[&str]) -> (i32, String) {
        let mut sagad = Command::new(env!("CARGO_BIN_EXE_sagad"));
        let output = sagad.args(args).current_dir(self.0.path()).env_clear().output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    }

    fn findings(&self, args: &[&str]) -> (i32, Vec<Value>) {
        let (code, out, err) = self.check(&[&["--json"], args].concat());
        assert_eq!(err, "");
        (code, serde_json::from_str(&out).unwrap())
    }
}

fn error(span: std::ops::Range<usize>) -> Diagnostic {
    let (message, help) = ("it is wrong".to_owned(), "make it right".to_owned());
    Diagnostic { severity: Severity::Error, code: "wrong", span, message, help }
}

/// The mark's line and the line above it, where `what` of `text` is wrong.
fn marked(text: &str, what: &str) -> (String, String) {
    let start = text.find(what).unwrap();
    let shown = render(Path::new("a.toml"), text, &error(start..start + what.len()), false);
    let lines: Vec<&str> = shown.lines().collect();
    let mark = lines.iter().position(|line| line.contains('^')).expect(&shown);
    (lines[mark - 1].to_owned(), lines[mark].to_owned())
}

#[test]
fn a_name_that_there_is_not_is_wrong_usage() {
    let folder = Folder::of(&[("sagas/flawless.toml", FLAWLESS.as_bytes())]);
    for command in ["graph", "explore", "asyncapi"] {
        let near = "sagad: there is no definition `flawles` below sagas; did you mean `flawless`?\n";
        assert_eq!(folder.sagad(&[command, "flawles"]), (2, near.to_owned()), "{command}");
        let far = "sagad: there is no definition `x` below sagas; there are flawless\n";
        assert_eq!(folder.sagad(&[command, "x"]), (2, far.to_owned()), "{command}");
        assert_eq!(folder.sagad(&[command, "flawless"]), (0, String::new()), "{command}");
    }
    std::fs::write(folder.path("sagas/broken.toml"), "name = 'broken'\n").unwrap();
    for args in [&["graph", "broken"][..], &["explore", "broken"], &["asyncapi", "broken"], &["asyncapi"]] {
        let (code, said) = folder.sagad(args);
        assert!(code == 2 && said.contains("have errors, which `sagad check` shows"), "{code}: {said}");
    }
}

#[test]
fn columns_count_characters() {
    let text = "a = 1\r\n# äöü\nname = \"Größe\" x\n";
    let of = |what: &str| place(text, text.find(what).unwrap());
    assert_eq!(of("a"), (1, 1));
    assert_eq!(of("#"), (2, 1));
    assert_eq!(of("ü"), (2, 5));
    assert_eq!(of("x"), (3, 16));
    assert_eq!(place(text, text.len()), (4, 1));
    // Out of bounds, or within a character: the nearest place before.
    assert_eq!(place(text, 1_000), (4, 1));
    assert_eq!(place("ä", 1), (1, 1));
    assert_eq!(place("", 0), (1, 1));
}

#[test]
fn the_mark_is_below_what_is_wrong() {
    for text in ["x = 1\nä = \"ß\"  bad # 日本\n", "x = 1\r\nä = \"ß\"  bad # 日本\r\n", "x = 1\nä = \"ß\"  bad"]
    {
        let (line, mark) = marked(text, "bad");
        assert_eq!(
            mark.find('^').map(|at| mark[..at].chars().count()),
            line.find("bad").map(|at| line[..at].chars().count())
        );
        assert_eq!(mark.matches('^').count(), 3, "{mark}");
        assert!(line.starts_with("2 |"), "{line}");
    }
}

#[test]
fn the_mark_stays_below_what_is_wrong_after_tabs_and_wide_characters() {
    // A tab is shown as four columns, a wide character takes two.
    let (line, mark) = marked("\tbad = 1\n", "bad");
    assert_eq!((line.as_str(), mark.as_str()), ("1 |     bad = 1", "  |     ^^^"));
    let (line, mark) = marked("\"日本\" = bad\n", "bad");
    assert_eq!((line.as_str(), mark.as_str()), ("1 | \"日本\" = bad", "  |          ^^^"));
}

#[test]
fn a_problem_is_shown_with_place_code_and_help() {
    let text = "name = 7\n";
    let shown = render(Path::new("sagas/a.toml"), text, &error(7..8), false);
    let expected = "\
error[wrong]: it is wrong
 --> sagas/a.toml:1:8
  |
1 | name = 7
  |        ^
  |
  = help: make it right";
    assert_eq!(shown, expected);
    assert!(render(Path::new("a.toml"), text, &error(7..8), true).contains("\u{1b}["), "colours");
}

#[test]
fn hostile_text_can_neither_break_the_excerpt_nor_reach_the_terminal() {
    let text = "a = \"\u{1b}[31m\u{7}\u{202e}\"\nb = 1";
    for span in [0..text.len(), 4..6, text.len()..text.len(), 900..1_000, 10..11, 11..12] {
        let mut diagnostic = error(span.clone());
        diagnostic.message = "no \u{1b}[31m".to_owned();
        let shown = render(Path::new("a\u{1b}.toml"), text, &diagnostic, false);
        assert!(!shown.contains(['\u{1b}', '\u{7}', '\u{202e}']), "{span:?}: {shown:?}");
        Finding::new(Path::new("a.toml"), text, &diagnostic);
    }
}

#[test]
fn flawless_definitions_end_with_0() {
    let folder = Folder::of(&[("sagas/a.toml", FLAWLESS.as_bytes()), ("sagas/below/a.test.toml", b"no definition")]);
    assert_eq!(folder.check(&[]), (0, "1 file checked: no problem\n".to_owned(), String::new()));
    assert_eq!(folder.check(&["--deny-warnings", "sagas/a.toml"]).0, 0);
    assert_eq!(folder.findings(&["sagas"]), (0, vec![]));
}

#[test]
fn every_error_of_every_file_is_shown_at_once() {
    let folder = Folder::of(&[
        ("sagas/a.toml", b"name = \"Gr\xc3\xb6\xc3\x9fe\"\r\n[[steps]]\r\nname = \"a\"\r\n\tcomand = \"x\"\r\n"),
        ("sagas/b.toml", b""),
        ("sagas/below/c.toml", b"name=\"\xc3\xa4\xff\""),
        ("sagas/d.toml", b"# \xe6\x97\xa5\xe6\x9c\xac\nname = \n"),
        ("sagas/e.toml", FLAWLESS.as_bytes()),
    ]);
    let (code, findings) = folder.findings(&[]);
    assert_eq!(code, 1);
    let found = |file: &str, line: u64, column: u64| {
        let here = |finding: &&Value| finding["file"] == file && finding["line"] == line && finding["column"] == column;
        findings.iter().find(here).unwrap_or_else(|| panic!("nothing at {file}:{line}:{column}: {findings:#?}"))
    };
    let name = found("sagas/a.toml", 1, 8);
    assert_eq!((name["end_line"].as_u64(), name["end_column"].as_u64()), (Some(1), Some(15)));
    assert!(found("sagas/a.toml", 4, 2)["help"].as_str().unwrap().contains("`command`"));
    found("sagas/b.toml", 1, 1);
    found("sagas/below/c.toml", 1, 8);
    assert!(findings.iter().any(|finding| finding["file"] == "sagas/d.toml" && finding["line"] == 2));
    assert!(findings.iter().all(|finding| finding["file"] != "sagas/e.toml"));
    let mut keys: Vec<&str> = name.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    assert_eq!(
        keys,
        ["code", "column", "end_column", "end_line", "file", "help", "line", "message", "severity"],
        "the JSON's shape"
    );

    let (code, out, err) = folder.check(&[]);
    assert_eq!((code, err.as_str()), (1, ""));
    assert!(out.contains(" --> sagas/a.toml:1:8\n"), "{out}");
    assert!(out.contains("--> sagas/b.toml:1:1\n"), "{out}");
    assert!(out.ends_with(&format!("5 files checked: {} errors\n", findings.len())), "{out}");
}

#[test]
fn a_name_that_is_taken_is_an_error_that_names_the_other_file() {
    let folder = Folder::of(&[("sagas/a.toml", FLAWLESS.as_bytes()), ("sagas/b.toml", FLAWLESS.as_bytes())]);
    let (code, findings) = folder.findings(&[]);
    assert_eq!((code, findings.len()), (1, 1));
    assert_eq!(findings[0]["file"], "sagas/b.toml");
    assert_eq!((&findings[0]["line"], &findings[0]["column"]), (&json!(1), &json!(8)));
    assert!(findings[0]["message"].as_str().unwrap().contains("sagas/a.toml"), "{findings:?}");
    // Named twice, it is still one file.
    assert_eq!(folder.findings(&["sagas/a.toml", "sagas/a.toml"]).0, 0);
}

#[test]
fn paths_that_lead_nowhere_are_told() {
    let folder = Folder::of(&[("empty/x.md", b"")]);
    let (code, findings) = folder.findings(&["nix.toml"]);
    assert_eq!((code, findings[0]["code"].as_str()), (1, Some("unreadable")));
    let (code, findings) = folder.findings(&["empty"]);
    assert_eq!((code, findings[0]["severity"].as_str()), (0, Some("warning")));
    assert_eq!(findings[0]["code"], "no-definitions");
    assert_eq!(folder.check(&["--deny-warnings", "empty"]).0, 1);
}

#[test]
fn wrong_usage_and_wrong_configuration_end_with_2() {
    let folder = Folder::of(&[("sagas/a.toml", FLAWLESS.as_bytes()), ("bad.toml", b"[broker]\nprefex = 1\n")]);
    assert_eq!(folder.check(&["--nonsense"]).0, 2);
    let (code, out, err) = folder.check(&["--config", "bad.toml"]);
    assert_eq!((code, out.as_str()), (2, ""));
    assert!(err.contains("prefex"), "{err}");
}

const TOPOLOGY: &[u8] = br#"
[[topology.exchanges]]
name = "shop.commands"
type = "topic"
[[topology.queues]]
name = "payments"
bind = [{ exchange = "shop.commands", routing_key = "payment.*" }]
"#;

#[test]
fn a_command_that_no_declared_queue_receives_is_a_warning() {
    let unheard = FLAWLESS.replace("payment.charge", "\u{e4}.charge");
    let folder = Folder::of(&[("config/sagad.toml", TOPOLOGY), ("sagas/a.toml", unheard.as_bytes())]);
    let (code, out, _) = folder.check(&[]);
    assert_eq!(code, 0);
    assert!(out.starts_with("warning[no-receiver]: no declared queue receives `ä.charge`"), "{out}");
    assert!(out.contains(" --> sagas/a.toml:5:11\n"), "{out}");
    assert!(out.ends_with("1 file checked: 1 warning\n"), "{out}");
    assert_eq!(folder.check(&["--deny-warnings"]).0, 1);
}

fn warned(definition: &str, topology: &str) -> Vec<String> {
    let (parsed, _) = parse(definition, &mut |_| Err(String::new())).expect("a definition");
    let config = Config::parse("sagad.toml", topology).unwrap();
    let plan = TopologyPlan::new(&config.broker, &config.topology).unwrap();
    let warnings = routing::warnings(&parsed, definition, &plan);
    let shown = warnings.iter().map(|warning| {
        let Diagnostic { severity, code, span, .. } = warning;
        assert_eq!(*severity, Severity::Warning);
        let (line, column) = place(definition, span.start);
        format!("{line}:{column} {code} {}", &definition[span.clone()])
    });
    shown.collect()
}

#[test]
fn commands_are_held_against_the_queues_that_receive_them() {
    let topology = String::from_utf8_lossy(TOPOLOGY).into_owned()
        + r#"
[[topology.queues]]
name = "parcels"
type = "classic"
max_priority = 9
bind = [{ exchange = "shop.commands", routing_key = "parcel.#" }]
"#;
    let definition = r#"name = "order"
priority = 5
[defaults]
exchange = "shop.commands"
[[steps]]
name = "pay"
command = "payment.charge"
priority = 4
compensate = { command = "refund.pay", priority = 7 }
[[steps]]
name = "back"
command = "payment.take"
[steps.compensate]
command = "payment.return"
priority = 8
[[steps]]
name = "tell"
exchange = "someone.elses"
command = "anything"
compensate = false
"#;
    let expected =
        ["8:12 priority-without-effect 4", "9:26 no-receiver \"refund.pay\"", "15:12 priority-without-effect 8"];
    // The step `tell` goes where the topology does not look: for all that is known the saga's priority counts there.
    let nowhere = "19:11 no-receiver \"anything\"";
    assert_eq!(warned(definition, &topology), [&expected[..], &[nowhere]].concat());
    let told =
        definition.replace("exchange = \"someone.elses\"\ncommand = \"anything\"", "\ncommand = \"payment.more\"");
    assert_eq!(warned(&told, &topology), [&["2:12 priority-without-effect 5"][..], &expected[..]].concat());
    let heeded = told.replace("payment.more", "parcel.send");
    assert_eq!(warned(&heeded, &topology), expected);
    // Nothing declared, nothing known.
    assert_eq!(warned(definition, ""), [""; 0]);
}

#[test]
fn the_shipped_definitions_have_no_problem_with_the_shipped_topology() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = std::fs::read_to_string(root.join("config/sagad.toml")).unwrap();
    let config = Config::parse("config/sagad.toml", &config).unwrap();
    let plan = TopologyPlan::new(&config.broker, &config.topology).unwrap();
    let folder = sagad::definitions::read(&[root.join("sagas")], Some(&plan));
    let findings: Vec<String> = folder
        .files
        .iter()
        .flat_map(|file| file.diagnostics.iter().map(|it| Finding::new(&file.path, &file.text, it).to_string()))
        .collect();
    assert_eq!(findings, [""; 0]);
    let names: Vec<&str> = folder.definitions.keys().map(|name| &**name).collect();
    assert_eq!(names, ["order", "trade", "travel"]);
}
