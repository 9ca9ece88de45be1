//! The plugin's file, and its system calls per ADD and per DEL.
//!
//! Owns what makes it cheap to run once per container: static, small, no thread, no second process.

use crate::strace::{self, Call};
use eni_tests::cni::Call as Cni;
use eni_tests::node::{Node, Options};
use eni_tests::programs::plugin;
use eni_tests::sandbox::Sandbox;

/// The file's size: what is read and mapped for each container. musl's is 0.66 MiB.
const SIZE_MOST: usize = 1024 * 1024;
/// The same when it is linked with glibc, which is larger.
const SIZE_MOST_GLIBC: usize = 1536 * 1024;
/// Nothing that opens sockets and parses JSON is smaller.
const SIZE_LEAST: usize = 100 * 1024;
/// System calls of an ADD or a DEL, its own start and end among them: those alone are 20.
const CALLS_MOST: usize = 60;
const CALLS_LEAST: usize = 25;

fn number(bytes: &[u8], at: usize, length: usize) -> usize {
    let mut value = [0; 8];
    value[..length].copy_from_slice(&bytes[at..at + length]);
    usize::try_from(u64::from_le_bytes(value)).expect("an offset fits")
}

/// The program headers of a 64-bit ELF file: kind, offset, size in the file.
fn segments(elf: &[u8]) -> Vec<(usize, usize, usize)> {
    assert_eq!(elf[..6], *b"\x7fELF\x02\x01", "a 64-bit little-endian ELF file");
    let (table, size, count) = (number(elf, 32, 8), number(elf, 54, 2), number(elf, 56, 2));
    let headers = (0..count).map(|n| table + n * size);
    headers.map(|at| (number(elf, at, 4), number(elf, at + 8, 8), number(elf, at + 32, 8))).collect()
}

#[test]
fn guard_the_plugin_is_static() {
    const PT_LOAD: usize = 1;
    const PT_DYNAMIC: usize = 2;
    const PT_INTERP: usize = 3;
    const DT_NEEDED: usize = 1;
    let elf = std::fs::read(plugin()).unwrap();
    let segments = segments(&elf);
    assert!(segments.iter().any(|(kind, ..)| *kind == PT_LOAD), "the headers are read: {segments:?}");
    assert!(segments.iter().all(|(kind, ..)| *kind != PT_INTERP), "it asks for a loader");
    // A static executable that is relocated at its start has a dynamic section, which names no library.
    for (_, offset, size) in segments.iter().filter(|(kind, ..)| *kind == PT_DYNAMIC) {
        let needed =
            (*offset..offset + size).step_by(16).filter(|at| number(&elf, *at, 8) == DT_NEEDED).count();
        assert_eq!(needed, 0, "it asks for libraries");
    }
}

#[test]
fn guard_the_plugin_is_small() {
    let path = plugin();
    let glibc = path.components().any(|part| part.as_os_str().to_string_lossy().ends_with("-linux-gnu"));
    let most = if glibc { SIZE_MOST_GLIBC } else { SIZE_MOST };
    let size = usize::try_from(std::fs::metadata(path).unwrap().len()).unwrap();
    assert!((SIZE_LEAST..=most).contains(&size), "{size} bytes");
}

/// The calls of the plugin in one call of it.
fn traced(call: Cni) -> Vec<Call> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("calls").display().to_string();
    call.by(&strace::wrapper(&file)).ok();
    strace::read(&std::fs::read_to_string(file).unwrap())
}

#[test]
fn guard_the_plugins_system_calls() {
    let node = Node::new(&Options::default());
    let sandbox = Sandbox::new();
    // An id as long as a runtime's.
    let id = "0123456789abcdef".repeat(4);
    let add = Cni::new(&node, "ADD").of(&id, &sandbox.path()).pod("web-5d4f8c7b9-x2x9z");
    let del = Cni::new(&node, "DEL").of(&id, &sandbox.path());
    for (verb, calls) in [("ADD", traced(add)), ("DEL", traced(del))] {
        let count = |names: &[&str]| calls.iter().filter(|call| names.contains(&call.name.as_str())).count();
        println!("{verb}: {} system calls of the plugin", calls.len());
        assert!((CALLS_LEAST..=CALLS_MOST).contains(&calls.len()), "{verb}: {} system calls", calls.len());
        assert_eq!(count(&["execve"]), 1, "{verb}: it runs no other program");
        assert_eq!(count(&["clone", "clone3", "fork", "vfork"]), 0, "{verb}: no thread, no process");
        assert_eq!(count(&["sendmsg"]), 1, "{verb}: one request");
        assert_eq!(count(&["sendto", "bind"]), 0, "{verb}: nothing by netlink: ipamd does that");
    }
}
