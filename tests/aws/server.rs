//! A small HTTP/1.1 server on loopback, for what stands in for AWS.
//!
//! Owns sockets, threads and the form of a request. What is answered is its handler's.

use nix::sys::socket::{Shutdown, shutdown};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

/// A body is a form of a few dozen fields at most.
const LARGEST_BODY: usize = 1 << 20;

/// One request.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    /// By lower-case names.
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: String,
}

/// What becomes of a request.
#[derive(Debug, Clone)]
pub(crate) enum Reply {
    Answer {
        status: u16,
        headers: Vec<(String, String)>,
        body: String,
    },
    /// No answer, and the connection stays.
    Hang,
}

impl Reply {
    pub(crate) fn ok(body: impl Into<String>) -> Reply {
        Reply::status(200, body)
    }

    pub(crate) fn status(status: u16, body: impl Into<String>) -> Reply {
        Reply::Answer { status, headers: Vec::new(), body: body.into() }
    }

    pub(crate) fn with(self, name: &str, value: &str) -> Reply {
        match self {
            Reply::Answer { status, mut headers, body } => {
                headers.push((name.to_owned(), value.to_owned()));
                Reply::Answer { status, headers, body }
            }
            Reply::Hang => Reply::Hang,
        }
    }
}

/// A server; it ends with this.
pub(crate) struct Server {
    listener: TcpListener,
    accepting: Option<JoinHandle<()>>,
}

impl Server {
    pub(crate) fn start(handler: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        Server::on(listener, handler)
    }

    /// On a listener that is there, as in another network namespace.
    pub(crate) fn on(
        listener: TcpListener,
        handler: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    ) -> Server {
        let (handler, accepts) = (Arc::new(handler), listener.try_clone().unwrap());
        let accepting = thread::spawn(move || {
            // The first error is its end.
            for stream in accepts.incoming().map_while(Result::ok) {
                let handler = handler.clone();
                // It ends when its client closes the connection.
                thread::spawn(move || serve(stream, handler.as_ref()));
            }
        });
        Server { listener, accepting: Some(accepting) }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.listener.local_addr().unwrap())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Whoever waits for a connection gets an error.
        shutdown(self.listener.as_raw_fd(), Shutdown::Both).unwrap();
        let _ = self.accepting.take().map(JoinHandle::join);
    }
}

fn serve(stream: TcpStream, handler: &dyn Fn(&Request) -> Reply) {
    let Ok(mut answers) = stream.try_clone() else { return };
    let mut requests = BufReader::new(stream);
    while let Some(request) = read(&mut requests) {
        let Reply::Answer { status, headers, body } = handler(&request) else {
            // Until the client gives up.
            let _ = requests.read(&mut [0]);
            return;
        };
        let mut head = format!("HTTP/1.1 {status} S\r\ncontent-length: {}\r\n", body.len());
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if write!(answers, "{head}\r\n{body}").is_err() {
            return;
        }
    }
}

fn read(requests: &mut impl BufRead) -> Option<Request> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if requests.read_line(&mut line).ok()? == 0 {
            return None;
        }
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let mut words = lines.first()?.split(' ');
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let headers: BTreeMap<String, String> = lines[1..]
        .iter()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let length = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
    assert!(length <= LARGEST_BODY, "{lines:?}");
    let mut body = vec![0; length];
    requests.read_exact(&mut body).ok()?;
    Some(Request { method, path, headers, body: String::from_utf8(body).unwrap() })
}
