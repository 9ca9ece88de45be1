//! Packets: bursts of 64-byte UDP, and the proof that a path carries them.
//!
//! Owns the timing of a burst. The receiver reads nothing and has the smallest buffer: what does not fit is dropped at the
//! very end, after all that is measured. Both ends' own work is in the figure.

use eni_proto::client::boottime;
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrIn, sendmmsg, setsockopt, sockopt};
use std::io::{self, IoSlice};
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::time::Duration;

/// Packets of one system call.
const CALL: usize = 64;
/// A frame of 64 bytes: what Ethernet, IPv4 and UDP leave.
const PAYLOAD: [u8; 22] = [0; 22];
const SMALLEST_BUFFER: usize = 2304;

/// Sends a packet and its answer, so that the path is known to work and conntrack has seen both directions; then makes
/// the receiver's buffer small. A new link carries nothing until the kernel's link watch has run, up to a second later.
pub(crate) fn prove(path: &UdpSocket, sink: &UdpSocket) -> io::Result<()> {
    const TRIES: usize = 200;
    let mut buffer = [0; 64];
    let step = Some(Duration::from_millis(25));
    sink.set_read_timeout(step)?;
    path.set_read_timeout(step)?;
    let mut exchange = || {
        path.send(&PAYLOAD)?;
        let (_, from) = sink.recv_from(&mut buffer)?;
        sink.send_to(&PAYLOAD, from)?;
        path.recv(&mut buffer)
    };
    let mut last = exchange();
    for _ in 1..TRIES {
        if last.is_ok() {
            break;
        }
        last = exchange();
    }
    last?;
    Ok(setsockopt(sink, sockopt::RcvBuf, &SMALLEST_BUFFER)?)
}

/// Nanoseconds per packet of a burst.
pub(crate) fn send(path: &UdpSocket, packets: usize) -> f64 {
    let parts = [IoSlice::new(&PAYLOAD)];
    let slices = vec![parts; CALL];
    let mut headers = MultiHeaders::<SockaddrIn>::preallocate(CALL, None);
    let calls = packets.div_ceil(CALL);
    let began = boottime();
    for _ in 0..calls {
        let mut left = CALL;
        while left > 0 {
            let sent = sendmmsg(
                path.as_raw_fd(),
                &mut headers,
                &slices[..left],
                [None; CALL],
                [],
                MsgFlags::empty(),
            );
            left -= sent.expect("packets are sent").count();
        }
    }
    (boottime() - began).as_nanos() as f64 / (calls * CALL) as f64
}
