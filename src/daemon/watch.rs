//! Reloading definitions: when their files change, and on SIGHUP.

use std::sync::Arc;
use std::time::Duration;

use notify::{RecursiveMode, Watcher};
use tokio::signal::unix::Signal;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::definitions::{Changes, Definitions, Folder};
use crate::report::Finding;
use crate::store::Store;

/// Editors write a file in several steps, deployments several files: what comes so close together is one change.
const QUIET: Duration = Duration::from_millis(200);

/// Reloads until `stop`; `hangup` is SIGHUP.
pub(super) async fn run<S: Store>(
    definitions: Arc<Definitions<S>>,
    watch: bool,
    mut hangup: Signal,
    stop: CancellationToken,
) {
    let (changed, mut changes) = mpsc::channel(1);
    let keep_alive = changed.clone();
    let mut watcher = None;
    if watch {
        match begin(&definitions, changed) {
            Ok(begun) => watcher = Some(begun),
            // Some file systems can't be watched; SIGHUP and the API always reload.
            Err(error) => tracing::warn!(%error, "the definitions can't be watched; reload them by SIGHUP or the API"),
        }
    }
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = hangup.recv() => {}
            _ = changes.recv() => {
                while let Ok(Some(())) = tokio::time::timeout(QUIET, changes.recv()).await {}
            }
        }
        reload(&definitions).await;
    }
    drop((watcher, keep_alive));
}

fn begin<S: Store>(
    definitions: &Definitions<S>,
    changed: mpsc::Sender<()>,
) -> Result<notify::RecommendedWatcher, notify::Error> {
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        if event.is_ok_and(|event| !event.kind.is_access()) {
            // One that waits already stands for this one too.
            let _ = changed.try_send(());
        }
    })?;
    watcher.watch(definitions.path(), RecursiveMode::Recursive)?;
    Ok(watcher)
}

async fn reload<S: Store>(definitions: &Definitions<S>) {
    match definitions.reload().await {
        Ok((changes, folder)) => report(&changes, &folder),
        Err(crate::definitions::LoadError::Files(folder)) => {
            let errors = summary(&folder);
            tracing::error!("the changed definitions have errors, the old ones stay in use:\n{errors}");
        }
        Err(error @ crate::definitions::LoadError::Unheard(_)) => {
            tracing::error!("{error}\nthe old definitions stay in use");
        }
        Err(error) => tracing::error!(%error, "the changed definitions could not be stored, the old ones stay in use"),
    }
}

/// Logs what a load changed and what it warns of.
pub(super) fn report(changes: &Changes, folder: &Folder) {
    let Changes { added, changed, removed, .. } = changes;
    if !(added.is_empty() && changed.is_empty() && removed.is_empty()) {
        tracing::info!(?added, ?changed, ?removed, "definitions loaded");
    }
    let warnings = summary(folder);
    if !warnings.is_empty() {
        tracing::warn!("the definitions have warnings:\n{warnings}");
    }
}

/// Every problem of every file, a line each.
pub(super) fn summary(folder: &Folder) -> String {
    let lines = folder.files.iter().flat_map(|file| {
        let findings = file.diagnostics.iter().map(|problem| Finding::new(&file.path, &file.text, problem));
        findings.map(|finding| match finding.help {
            "" => finding.to_string(),
            help => format!("{finding}; {help}"),
        })
    });
    lines.collect::<Vec<_>>().join("\n")
}
