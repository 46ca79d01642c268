//! Between the socket and lapin: frames go through as they are, but for what [`clean`](super::clean) mends in them.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use async_rs::traits::Reactor;
use async_rs::util::RuntimeParts;
use async_rs::{Runtime, Tokio};
use futures_util::Stream;
use futures_util::io::{AsyncRead, AsyncWrite};
use lapin::tcp::{AMQPUriTcpExt, AsyncTcpStream, TLSConfig};
use lapin::uri::AMQPUri;
use lapin::{Connection, ConnectionProperties};

use super::clean;

/// Bytes read at once.
const BUFFER: usize = 256 << 10;

/// The largest frame that is looked into; RabbitMQ's own limit is 128 KiB unless someone raised it.
const MAX_FRAME: usize = 16 << 20;

/// Type, channel and size of a frame.
const HEAD: usize = 7;

/// Types of frames that carry text of strangers.
const METHOD: u8 = 1;
const CONTENT_HEADER: u8 = 2;

/// A socket, with TLS or without.
type Socket = AsyncTcpStream<<Tokio as Reactor>::TcpStream>;

/// Opens a connection that reads through a sieve. The socket has `patience` to connect: lapin waits for it on a thread, which nobody else
/// could end.
///
/// # Errors
/// lapin's.
pub(super) async fn connect(
    uri: AMQPUri,
    properties: ConnectionProperties,
    patience: Duration,
) -> lapin::Result<Connection> {
    let tokio = Tokio::current();
    let sockets = Runtime::new(tokio.clone());
    let runtime = Runtime::new(RuntimeParts::new(tokio.clone(), Sockets(tokio)));
    let open = async move |uri: AMQPUri, _| {
        let socket = uri.connect_with_config_async(TLSConfig::default(), &sockets);
        let socket = tokio::time::timeout(patience, socket).await.map_err(io::Error::from)??;
        Ok(AsyncTcpStream::Plain(Sieve::new(socket)))
    };
    Connection::connector(uri, runtime, open, properties).await
}

/// Tokio's reactor, but for the type of its sockets.
#[derive(Clone, Debug)]
struct Sockets(Tokio);

impl Reactor for Sockets {
    type TcpStream = Sieve<Socket>;
    type Sleep = <Tokio as Reactor>::Sleep;

    fn register<H: Read + Write + AsFd + AsRawFd + Send + 'static>(
        &self,
        socket: H,
    ) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin + 'static> {
        self.0.register(socket)
    }

    fn sleep(&self, duration: Duration) -> Self::Sleep {
        self.0.sleep(duration)
    }

    fn interval(&self, duration: Duration) -> impl Stream<Item = Instant> + Send + 'static {
        self.0.interval(duration)
    }

    fn tcp_connect_addr(
        &self,
        address: SocketAddr,
    ) -> impl Future<Output = io::Result<Self::TcpStream>> + Send + 'static {
        let connecting = self.0.tcp_connect_addr(address);
        async move { Ok(Sieve::new(AsyncTcpStream::Plain(connecting.await?))) }
    }
}

/// A stream of frames, mended on the way in.
struct Sieve<S> {
    inner: S,
    /// Bytes from `start` to `end` are here; those up to `clean` can go on.
    buffer: Vec<u8>,
    start: usize,
    clean: usize,
    end: usize,
    /// How much is left of a frame that nobody needs to look into.
    passing: usize,
}

impl<S> Sieve<S> {
    fn new(inner: S) -> Sieve<S> {
        Sieve { inner, buffer: vec![0; BUFFER], start: 0, clean: 0, end: 0, passing: 0 }
    }

    /// Looks at what has come since the last time.
    fn sift(&mut self) {
        while self.clean < self.end {
            let come = &mut self.buffer[self.clean..self.end];
            if self.passing > 0 {
                let passed = self.passing.min(come.len());
                self.passing -= passed;
                self.clean += passed;
                continue;
            }
            let Some((&mut [kind, _, _, a, b, c, d], rest)) = come.split_first_chunk_mut::<HEAD>() else { return };
            let size = u32::from_be_bytes([a, b, c, d]) as usize;
            // With the byte that ends it.
            let whole = HEAD + size + 1;
            let mend = match kind {
                METHOD if whole <= MAX_FRAME => clean::method,
                CONTENT_HEADER if whole <= MAX_FRAME => clean::header,
                _ => {
                    self.passing = whole;
                    continue;
                }
            };
            if rest.len() <= size {
                return;
            }
            mend(&mut rest[..size]);
            self.clean += whole;
        }
    }

    /// Makes room for more: by moving what is left to the front, or for a frame larger than the buffer.
    fn make_room(&mut self) {
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.clean -= self.start;
        self.start = 0;
        if self.end == self.buffer.len() {
            self.buffer.resize(self.buffer.len() * 2, 0);
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Sieve<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        while this.start == this.clean {
            this.make_room();
            let come = ready!(Pin::new(&mut this.inner).poll_read(cx, &mut this.buffer[this.end..]))?;
            if come == 0 {
                // Half a frame is nothing.
                return Poll::Ready(Ok(0));
            }
            this.end += come;
            this.sift();
        }
        let count = into.len().min(this.clean - this.start);
        into[..count].copy_from_slice(&this.buffer[this.start..this.start + count]);
        this.start += count;
        Poll::Ready(Ok(count))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Sieve<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write_vectored(cx, slices)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_close(cx)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use futures_util::io::AsyncReadExt;
    use proptest::prelude::*;

    use super::*;

    /// Bytes that come in pieces.
    struct Pieces(Vec<u8>, Vec<usize>);

    impl AsyncRead for Pieces {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
            let this = self.get_mut();
            let piece = this.1.pop().unwrap_or(usize::MAX).clamp(1, into.len()).min(this.0.len());
            into[..piece].copy_from_slice(&this.0[..piece]);
            this.0.drain(..piece);
            Poll::Ready(Ok(piece))
        }
    }

    fn sifted(bytes: &[u8], pieces: Vec<usize>) -> Vec<u8> {
        let mut out = Vec::new();
        let mut sieve = Sieve::new(Pieces(bytes.to_vec(), pieces));
        sieve.read_to_end(&mut out).now_or_never().expect("never waits").expect("read");
        out
    }

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        let size = u32::try_from(payload.len()).expect("small").to_be_bytes();
        [&[kind, 0, 1][..], &size, payload, &[0xce]].concat()
    }

    /// A content header with a message id.
    fn with_id(id: &[u8]) -> Vec<u8> {
        let length = u8::try_from(id.len()).expect("short");
        frame(CONTENT_HEADER, &[&[0; 12][..], &(1u16 << 7).to_be_bytes(), &[length], id].concat())
    }

    #[test]
    fn only_text_of_strangers_changes() {
        let body = frame(3, &[0xff; 300_000]);
        let heartbeat = frame(8, b"");
        let came = [&with_id(b"a\xffb")[..], &body, &heartbeat, &with_id(b"fine")].concat();
        let goes = [&with_id(b"a?b")[..], &body, &heartbeat, &with_id(b"fine")].concat();
        assert!(sifted(&came, vec![]) == goes);
    }

    #[test]
    fn a_header_larger_than_the_buffer_is_mended_too() {
        let length = u32::try_from(2 * BUFFER).expect("small").to_be_bytes();
        let large = [&b"\x01\xffS"[..], &length, &vec![0xff; 2 * BUFFER]].concat();
        let header = |key: u8| {
            let mut large = large.clone();
            large[1] = key;
            let size = u32::try_from(large.len()).expect("small").to_be_bytes();
            frame(CONTENT_HEADER, &[&[0; 12][..], &(1u16 << 13).to_be_bytes(), &size, &large].concat())
        };
        assert!(sifted(&header(0xff), vec![]) == header(b'?'));
    }

    #[test]
    fn what_is_no_amqp_passes() {
        assert_eq!(sifted(b"AMQP\x00\x00\x09\x01", vec![]), b"AMQP\x00\x00\x09\x01");
        assert_eq!(sifted(b"HTTP/1.1 400 Bad Request\r\n\r\n", vec![3, 1]), b"HTTP/1.1 400 Bad Request\r\n\r\n");
    }

    proptest! {
        #[test]
        fn however_it_comes_it_goes_the_same(
            frames in prop::collection::vec((1..9u8, prop::collection::vec(any::<u8>(), 0..60)), 0..20),
            ids in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 0..20),
            pieces in prop::collection::vec(1..50usize, 0..200),
        ) {
            let mut came = Vec::new();
            for (kind, payload) in &frames {
                came.extend(frame(*kind, payload));
            }
            for id in &ids {
                came.extend(with_id(id));
            }
            let whole = sifted(&came, vec![]);
            prop_assert_eq!(whole.len(), came.len());
            prop_assert_eq!(sifted(&came, pieces), whole);
        }
    }
}
