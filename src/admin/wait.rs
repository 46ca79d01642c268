//! `Prefer: wait=N`: the answer to a start waits for the saga's end.

use std::future::pending;
use std::time::Duration;

use axum::http::HeaderMap;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::time::{Instant, sleep_until};

use super::Api;
use super::problem::{Kind, Problem};
use super::sagas::Shown;
use crate::core::id::SagaId;
use crate::core::saga::Status;
use crate::store::Store;

/// The longest wait: proxies give up on connections sooner or later.
const LONGEST: Duration = Duration::from_secs(300);

/// How often to look: another daemon may end the saga, and a suspension tells nobody.
const LOOK: Duration = Duration::from_secs(1);

/// The preference `wait` (RFC 7240) in whole seconds, cut to what is allowed. What can't be read is no preference.
pub(super) fn preferred(headers: &HeaderMap) -> Option<Duration> {
    let values = headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok());
    let mut preferences = values.flat_map(|value| value.split(','));
    let wait = preferences.find_map(|preference| {
        let (name, value) = preference.split(';').next()?.split_once('=')?;
        name.trim().eq_ignore_ascii_case("wait").then(|| value.trim().trim_matches('"').parse().ok())?
    });
    wait.map(|seconds: u32| Duration::from_secs(seconds.into()).min(LONGEST))
}

/// The saga once it has ended, waits for an operator or is gone, or as it is after `patience`, or when sagad stops.
///
/// `ended` was subscribed to before the saga was started, so that its end can't be missed.
pub(super) async fn end_of<S: Store>(
    api: &Api<S>,
    id: SagaId,
    patience: Duration,
    mut ended: broadcast::Receiver<SagaId>,
) -> Result<Shown, Problem> {
    let deadline = Instant::now() + patience;
    loop {
        let shown = api.saga(id).await;
        let is_over = match &shown {
            Ok(shown) => shown.saga.status().is_terminal() || shown.saga.status() == Status::Suspended,
            Err(problem) => problem.is(Kind::UnknownSaga),
        };
        if is_over || Instant::now() >= deadline || api.stopping.is_cancelled() {
            return shown;
        }
        tokio::select! {
            () = end_is_told(&mut ended, id) => {}
            () = sleep_until(deadline.min(Instant::now() + LOOK)) => {}
            () = api.stopping.cancelled() => {}
        }
    }
}

async fn end_is_told(ended: &mut broadcast::Receiver<SagaId>, id: SagaId) {
    loop {
        match ended.recv().await {
            Ok(other) if other != id => {}
            Ok(_) | Err(RecvError::Lagged(_)) => return,
            Err(RecvError::Closed) => pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn reads_the_preference() {
        let wait = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append("prefer", HeaderValue::from_str(value).unwrap());
            }
            preferred(&headers).map(|wait| wait.as_secs())
        };
        assert_eq!(wait(&["wait=10"]), Some(10));
        assert_eq!(wait(&["respond-async, Wait = \"7\"; foo=bar"]), Some(7));
        assert_eq!(wait(&["return=minimal", "wait=0"]), Some(0));
        assert_eq!(wait(&["wait=4294967295"]), Some(300));
        for none in ["wait", "wait=", "wait=soon", "wait=-1", "await=3", "wait=99999999999", "wait=1.5"] {
            assert_eq!(wait(&[none]), None, "{none}");
        }
        assert_eq!(wait(&[]), None);
    }
}
