//! Standard input and output of the bench's own processes, as lines.

use std::io::{BufRead, Write};

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::Result;

/// The lines of standard input; it ends when that does.
pub(super) fn stdin() -> UnboundedReceiver<String> {
    let (line, lines) = unbounded_channel();
    // A thread of its own: standard input can only be read by waiting for it.
    std::thread::spawn(move || {
        for text in std::io::stdin().lock().lines().map_while(std::result::Result::ok) {
            if line.send(text).is_err() {
                return;
            }
        }
    });
    lines
}

/// Writes to standard output at once.
pub(super) fn say(text: &str) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    Ok(stdout.flush()?)
}
