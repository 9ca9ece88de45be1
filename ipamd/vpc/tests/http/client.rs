//! A client of one's own: HTTP/1.1 over a plain stream, and just enough of XML to look an answer over.
//!
//! Owns the connection of one request.

use embedded_vpc::standalone::Standalone;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

/// What a signed request has; nobody verifies the rest.
pub(crate) const SIGNED: (&str, &str) = (
    "Authorization",
    "AWS4-HMAC-SHA256 Credential=AKIAX/20261124/eu-central-1/ec2/aws4_request, Signature=0",
);

/// Sends a request; none is a connection that was closed without an answer.
pub(crate) fn send(
    vpc: &Standalone,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Option<Answer> {
    let address = vpc.endpoint().replace("http://", "");
    let mut stream = TcpStream::connect(address).expect("it listens");
    let mut text = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n", body.len());
    for (name, value) in headers {
        text += &format!("{name}: {value}\r\n");
    }
    write!(stream, "{text}\r\n{body}").expect("it reads");
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    if reader.read_line(&mut line).expect("it answers or closes") == 0 {
        return None;
    }
    let status = line.split(' ').nth(1).expect("a status line").parse().expect("a status");
    let mut headers = Vec::new();
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).expect("a header");
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        if name == "Content-Length" {
            length = value.parse().expect("a length");
        }
        headers.push((name.to_owned(), value.to_owned()));
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).expect("the whole body");
    Some(Answer { status, headers, body: String::from_utf8(body).expect("text") })
}

/// One action of EC2, signed; what it answers or closes on.
pub(crate) fn try_action(vpc: &Standalone, action: &str, parameters: &str) -> Option<Answer> {
    let body = format!("Action={action}&Version=2016-11-15&{parameters}");
    let answer = send(vpc, "POST", "/", &[SIGNED], &body)?;
    assert!(answer.body.starts_with("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<"), "{answer:?}");
    Some(answer)
}

/// One action that is answered with success.
pub(crate) fn action(vpc: &Standalone, action: &str, parameters: &str) -> String {
    let answer = try_action(vpc, action, parameters).expect("an answer");
    assert_eq!(answer.status, 200, "{action} {parameters}: {}", answer.body);
    let root =
        format!("<{action}Response xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\"><requestId>req-");
    assert!(answer.body.contains(&root), "{}", answer.body);
    answer.body
}

/// One action that is refused: status and code.
pub(crate) fn refusal(vpc: &Standalone, action: &str, parameters: &str) -> (u16, String) {
    let answer = try_action(vpc, action, parameters).expect("an answer");
    assert!(answer.body.contains("<Response><Errors><Error><Code>"), "{}", answer.body);
    assert!(element(&answer.body, "RequestID").starts_with("req-"), "{}", answer.body);
    (answer.status, element(&answer.body, "Code").to_owned())
}

/// The texts of all elements of a name.
pub(crate) fn elements<'a>(xml: &'a str, name: &str) -> Vec<&'a str> {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    let texts = xml.split(open.as_str()).skip(1);
    texts.map(|rest| rest.split(close.as_str()).next().expect("it is closed")).collect()
}

/// The text of the first element of a name.
pub(crate) fn element<'a>(xml: &'a str, name: &str) -> &'a str {
    elements(xml, name).first().unwrap_or_else(|| panic!("no {name} in {xml}"))
}
