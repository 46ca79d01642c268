//! CPU time of processes, read from `/proc`.

use std::collections::HashSet;
use std::fs;
use std::net::{IpAddr, ToSocketAddrs};

/// A clock tick of `/proc`, microseconds: Linux reports 100 a second on every architecture that sagad runs on.
const TICK: u64 = 10_000;

/// CPU time that a process and its children, running or reaped, have used so far, microseconds; `None` if there is no such process
/// or it can't be seen.
pub(super) fn cpu_micros(pid: u32) -> Option<u64> {
    let own = Stat::of(pid)?;
    let mut ticks = own.ticks + own.reaped;
    for entry in fs::read_dir("/proc").ok()?.flatten() {
        let Some(other) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if let Some(stat) = Stat::of(other).filter(|stat| stat.parent == pid) {
            ticks += stat.ticks;
        }
    }
    Some(ticks * TICK)
}

/// The process on this machine that listens where `host` and `port` lead; `None` if it is on another one or can't be seen.
pub(super) fn listener(host: &str, port: u16) -> Option<u32> {
    let address = (host.trim_matches(['[', ']']), port).to_socket_addrs().ok()?.next()?;
    let local = match address.ip() {
        IpAddr::V4(ip) => ip.is_loopback(),
        IpAddr::V6(ip) => ip.is_loopback(),
    };
    if !local {
        return None;
    }
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|table| fs::read_to_string(table).unwrap_or_default());
    let lines = tables.iter().flat_map(|table| table.lines().skip(1));
    let inodes = lines.filter_map(|line| listening(line, port));
    let sockets: HashSet<String> = inodes.map(|inode| format!("socket:[{inode}]")).collect();
    fs::read_dir("/proc").ok()?.flatten().find_map(|process| {
        let pid = process.file_name().to_str()?.parse().ok()?;
        let mut files = fs::read_dir(process.path().join("fd")).ok()?.flatten();
        files
            .any(|file| fs::read_link(file.path()).is_ok_and(|to| sockets.contains(&*to.to_string_lossy())))
            .then_some(pid)
    })
}

/// The inode of a line of `/proc/net/tcp` if it is a socket that listens on `port`.
fn listening(line: &str, port: u16) -> Option<&str> {
    /// TCP_LISTEN.
    const LISTEN: &str = "0A";
    let fields: Vec<&str> = line.split_whitespace().collect();
    let (_, local_port) = fields.get(1)?.rsplit_once(':')?;
    (*fields.get(3)? == LISTEN && u16::from_str_radix(local_port, 16) == Ok(port)).then(|| fields.get(9).copied())?
}

struct Stat {
    parent: u32,
    /// User and system time of its own.
    ticks: u64,
    /// Those of children that it has waited for.
    reaped: u64,
}

impl Stat {
    fn of(pid: u32) -> Option<Stat> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The second field is the name in brackets, which may itself have blanks and brackets.
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
        let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
        Some(Stat {
            parent: fields.get(1)?.parse().ok()?,
            ticks: number(11)? + number(12)?,
            reaped: number(13)? + number(14)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_own_time_is_seen_and_grows() {
        let before = cpu_micros(std::process::id()).expect("this process");
        let mut sum = 0u64;
        while cpu_micros(std::process::id()).expect("this process") < before + 2 * TICK {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert_eq!(cpu_micros(u32::MAX), None);
    }

    #[test]
    fn a_listener_is_found_by_its_port() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = socket.local_addr().expect("bound").port();
        assert_eq!(listener("127.0.0.1", port), Some(std::process::id()));
        drop(socket);
        assert_eq!(listener("127.0.0.1", port), None);
        assert_eq!(listener("192.0.2.1", port), None, "another machine's");
    }
}
