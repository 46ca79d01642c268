//! Packages of other languages, installed once below the target folder: pinned, so that what is tested is the same everywhere.

use std::path::{Path, PathBuf};
use std::process::Output;

use tokio::process::Command;
use tokio::sync::Mutex;

/// The Node.js that the samples ask for, where the machine has an older one.
const NODE: &str = "22.23.3";

/// A folder with `node_modules` of these packages, `name@version` each.
pub(crate) async fn npm(packages: &[&str]) -> PathBuf {
    let install = |folder: &Path| {
        let mut npm = Command::new("npm");
        npm.args([
            "install",
            "--no-audit",
            "--no-fund",
            "--no-update-notifier",
            "--ignore-scripts",
            "--loglevel=error",
        ]);
        npm.arg("--prefix").arg(folder).args(packages);
        npm
    };
    installed("npm", packages, install, "apt-get install npm").await
}

/// A folder for `PYTHONPATH` with these packages, `name==version` each.
pub(crate) async fn pip(packages: &[&str]) -> PathBuf {
    let install = |folder: &Path| {
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check"]);
        pip.args(["--root-user-action=ignore", "--target"]).arg(folder).args(packages);
        pip
    };
    installed("pip", packages, install, "apt-get install python3-pip").await
}

/// A Node.js that is recent enough for the samples.
pub(crate) async fn node() -> PathBuf {
    let recent = Command::new("node").args(["--eval", "require('node:sqlite')"]).output().await;
    if recent.is_ok_and(|output| output.status.success()) {
        return "node".into();
    }
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "x64" };
    let package = format!("node-linux-{architecture}");
    let folder = npm(&[&format!("{package}@{NODE}")]).await;
    folder.join("node_modules").join(package).join("bin/node")
}

/// Installs into a folder of its own, unless it is there; a half-installed one is never seen.
async fn installed(tool: &str, packages: &[&str], install: impl Fn(&Path) -> Command, missing: &str) -> PathBuf {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());
    let _turn = ONE_AT_A_TIME.lock().await;
    let name = format!("{tool}-{}", packages.join("-").replace(['/', '@', '='], "_"));
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let folder = cache.join(name);
    if folder.exists() {
        return folder;
    }
    let fresh = tempfile::tempdir_in(cache).expect("the target folder can be written");
    let output = install(fresh.path()).kill_on_drop(true).output().await;
    let Output { status, stderr, .. } = output.unwrap_or_else(|error| panic!("{tool}: {error} ({missing})"));
    assert!(status.success(), "{tool} does not install {packages:?} ({missing}): {}", String::from_utf8_lossy(&stderr));
    // Another process may have been faster.
    if std::fs::rename(fresh.path(), &folder).is_ok() {
        let _ = fresh.keep();
    }
    folder
}
