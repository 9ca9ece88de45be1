//! A call of the plugin, exactly as libcni makes it: environment, configuration on stdin, what it printed.
//!
//! Owns the process of the call. Does not judge the answer.

use crate::node::Node;
use crate::programs::plugin;
use crate::sandbox::Sandbox;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::Write;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A call.
#[derive(Debug, Clone)]
pub struct Call {
    netns_of_caller: String,
    environment: BTreeMap<String, String>,
    stdin: Vec<u8>,
    wrapper: Vec<String>,
    program: PathBuf,
}

/// What a call came to.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The exit code; none when it was killed.
    pub code: Option<i32>,
    /// What it printed.
    pub stdout: String,
    /// What it said on stderr.
    pub stderr: String,
}

impl Call {
    /// A call of `verb` on a node, of CNI 1.0.0.
    pub fn new(node: &Node, verb: &str) -> Call {
        let environment = [("CNI_COMMAND", verb), ("CNI_PATH", "/opt/cni/bin")];
        let conf =
            json!({ "cniVersion": "1.0.0", "name": "vpc", "type": "eni-cni", "socket": node.socket() });
        Call {
            netns_of_caller: node.netns("node"),
            environment: environment.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
            stdin: conf.to_string().into_bytes(),
            wrapper: Vec::new(),
            program: plugin(),
        }
    }

    /// Of a container and its sandbox, on eth0.
    pub fn of(self, container: &str, netns: &str) -> Call {
        self.env("CNI_CONTAINERID", container).env("CNI_NETNS", netns).env("CNI_IFNAME", "eth0")
    }

    /// With a pod's name.
    pub fn pod(self, name: &str) -> Call {
        self.env("CNI_ARGS", &format!("IgnoreUnknown=1;K8S_POD_NAME={name};K8S_POD_NAMESPACE=default"))
    }

    /// With a variable; an empty value takes it away.
    pub fn env(mut self, name: &str, value: &str) -> Call {
        if value.is_empty() && name != "CNI_NETNS" {
            self.environment.remove(name);
        } else {
            self.environment.insert(name.to_owned(), value.to_owned());
        }
        self
    }

    /// With a key of the configuration; null takes it away.
    pub fn conf(mut self, key: &str, value: Value) -> Call {
        let mut conf: Value = serde_json::from_slice(&self.stdin).expect("the configuration is JSON");
        let object = conf.as_object_mut().expect("the configuration is an object");
        if value.is_null() {
            object.remove(key);
        } else {
            object.insert(key.to_owned(), value);
        }
        self.stdin = conf.to_string().into_bytes();
        self
    }

    /// With these bytes on stdin.
    pub fn stdin(mut self, bytes: &[u8]) -> Call {
        self.stdin = bytes.to_vec();
        self
    }

    /// Run by another program: `strace …`.
    pub fn by(mut self, wrapper: &[&str]) -> Call {
        self.wrapper = wrapper.iter().map(|w| (*w).to_owned()).collect();
        self
    }

    /// Of another plugin of the list.
    pub fn program(mut self, program: &Path) -> Call {
        program.clone_into(&mut self.program);
        self
    }

    /// Starts it.
    pub fn start(&self) -> Running {
        let mut words = vec!["nsenter".to_owned(), format!("--net=/run/netns/{}", self.netns_of_caller)];
        words.extend(self.wrapper.iter().cloned());
        words.push(self.program.display().to_string());
        let mut child = Command::new(&words[0])
            .args(&words[1..])
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .envs(&self.environment)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the plugin starts");
        let mut stdin = child.stdin.take().expect("it is piped");
        // A plugin that does not read its configuration has its reasons.
        let _ = stdin.write_all(&self.stdin);
        Running { child }
    }

    /// Runs it to its end.
    pub fn run(&self) -> Answer {
        self.start().end()
    }

    /// Runs it; it must succeed.
    pub fn ok(&self) -> Answer {
        let answer = self.run();
        assert_eq!(answer.code, Some(0), "{:?}: {}{}", self.environment, answer.stdout, answer.stderr);
        answer
    }
}

/// A call that runs.
#[derive(Debug)]
pub struct Running {
    child: Child,
}

impl Running {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("it was started").is_some()
    }

    /// Waits for its end.
    pub fn end(self) -> Answer {
        let output = self.child.wait_with_output().expect("it was started");
        Answer {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Answer {
    /// What it printed, as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|e| panic!("stdout is no JSON ({e}): {:?}", self.stdout))
    }

    /// The CNI error code that it printed.
    pub fn error(&self) -> u64 {
        assert_eq!(self.code, Some(1), "{}{}", self.stdout, self.stderr);
        self.json()["code"].as_u64().expect("an error object has a code")
    }

    /// The address that an ADD printed.
    pub fn address(&self) -> Ipv4Addr {
        let json = self.json();
        let text = json["ips"][0]["address"].as_str().expect("a result has an address");
        text.trim_end_matches("/32").parse().expect("an IPv4 address")
    }
}

/// ADD of a container in its sandbox; it must succeed.
pub fn add(node: &Node, container: &str, sandbox: &Sandbox) -> Ipv4Addr {
    Call::new(node, "ADD").of(container, &sandbox.path()).pod(container).ok().address()
}

/// DEL of a container; it must succeed.
pub fn del(node: &Node, container: &str, netns: &str) {
    Call::new(node, "DEL").of(container, netns).ok();
}
