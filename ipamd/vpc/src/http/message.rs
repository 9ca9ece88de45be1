//! HTTP/1.1 messages, as far as the SDK and the metadata service's clients use them.
//!
//! Owns reading a request and writing an answer. A body has a length (`Content-Length`) or there is none. Does not know
//! what is asked.

use std::collections::BTreeMap;
use std::io::{self, BufRead, Read, Write};

/// The longest head, in bytes: a signed request's is some two KiB.
const MAX_HEAD: u64 = 64 * 1024;
/// The longest body, in bytes: a thousand addresses as parameters are some 60 KiB.
const MAX_BODY: usize = 1024 * 1024;

/// A request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) method: String,
    /// The path, without what follows a `?`.
    pub(super) path: String,
    /// By name in lower case.
    pub(super) headers: BTreeMap<String, String>,
    pub(super) body: String,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Response {
    pub(super) status: u16,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: String,
}

impl Request {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// Whether the connection ends with this request.
    pub(super) fn is_last(&self) -> bool {
        self.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }
}

fn bad(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// Reads a request; none when the connection has ended between two.
pub(super) fn read(reader: &mut impl BufRead) -> io::Result<Option<Request>> {
    let mut head = reader.by_ref().take(MAX_HEAD);
    let mut line = String::new();
    if head.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace();
    let (Some(method), Some(target), Some("HTTP/1.1")) = (words.next(), words.next(), words.next()) else {
        return Err(bad("no HTTP/1.1 request"));
    };
    let path = target.split('?').next().unwrap_or(target).to_owned();
    let method = method.to_owned();
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        head.read_line(&mut line)?;
        if !line.ends_with('\n') {
            return Err(bad("the head does not end"));
        }
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':').ok_or_else(|| bad("a header without a colon"))?;
        headers.insert(name.trim().to_ascii_lowercase(), value.trim().to_owned());
    }
    if headers.contains_key("transfer-encoding") {
        return Err(bad("a body has a Content-Length here"));
    }
    let length = headers.get("content-length").map_or(Ok(0), |value| value.parse::<usize>());
    let length = length.ok().filter(|length| *length <= MAX_BODY).ok_or_else(|| bad("the body's length"))?;
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let body = String::from_utf8(body).map_err(|_| bad("the body is not UTF-8"))?;
    Ok(Some(Request { method, path, headers, body }))
}

impl Response {
    pub(super) fn new(status: u16, content_type: &str, body: String) -> Response {
        Response { status, headers: vec![("Content-Type", content_type.to_owned())], body }
    }

    /// Writes it, in one piece.
    pub(super) fn write(&self, writer: &mut impl Write) -> io::Result<()> {
        let mut text = format!("HTTP/1.1 {} {}\r\n", self.status, reason(self.status));
        for (name, value) in &self.headers {
            text += &format!("{name}: {value}\r\n");
        }
        text += &format!("Server: EC2ws\r\nContent-Length: {}\r\n\r\n{}", self.body.len(), self.body);
        writer.write_all(text.as_bytes())
    }
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        412 => "Precondition Failed",
        500 => "Internal Server Error",
        503 => "Service Unavailable",
        _ => "Status",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_read_with_its_body_and_the_next_one_after_it() {
        let text = "POST /a?b=c HTTP/1.1\r\nHost: x\r\nContent-length: 3\r\n\r\n\
                    abcGET /latest HTTP/1.1\r\nConnection: close\r\n\r\n";
        let mut reader = text.as_bytes();
        let first = read(&mut reader).unwrap().unwrap();
        assert_eq!((first.method.as_str(), first.path.as_str(), first.body.as_str()), ("POST", "/a", "abc"));
        assert_eq!((first.header("host"), first.is_last()), (Some("x"), false));
        let second = read(&mut reader).unwrap().unwrap();
        assert!(second.path == "/latest" && second.is_last());
        assert_eq!(read(&mut reader).unwrap(), None);
    }

    #[test]
    fn what_is_no_request_is_an_error() {
        let long = format!("GET / HTTP/1.1\r\nA: {}\r\n\r\n", "a".repeat(70_000));
        for text in [
            "GET /\r\n\r\n",
            "GET / HTTP/1.1\r\nno colon\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 9999999\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nabc",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
            long.as_str(),
        ] {
            assert!(read(&mut text.as_bytes()).is_err(), "{}", &text[..20]);
        }
    }
}
