//! What the kernel tells about a process: memory, wake-ups, system calls.
//!
//! Owns the reading of `/proc` and of strace's summary, and the passes that need them: none of them is timed.

use crate::bench::contender::Contender;
use crate::bench::exec;
use crate::bench::pods::{Pod, inside, remove_netns};
use crate::bench::rounds;
use crate::wait;
use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

/// A number of `/proc/PID/status`, or 0 of a process that is gone.
pub(crate) fn status(pid: Pid, key: &str) -> u64 {
    number_of(&fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default(), key)
}

fn number_of(status: &str, key: &str) -> u64 {
    let value = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    value.and_then(|value| value.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// Peak RSS of the plugin's own process in an ADD, in KiB: VmHWM, read by ptrace when it ends.
pub(crate) fn peak_rss(contender: &Contender) -> u64 {
    let mut pods = contender.pods(1);
    let pod = &mut pods[0];
    contender.wait_free(1);
    let peak = inside(contender.host(), || {
        let (peak, printed) = traced(contender, pod);
        pod.answered("ADD", &printed).unwrap_or_else(|error| panic!("{error}"));
        peak
    });
    let (pods, _, _) = rounds::workers(contender, "DEL", pods, 1);
    pods.iter().for_each(|pod| remove_netns(&pod.netns));
    peak
}

// It is waited for by waitpid, which tells of its stops, too.
#[allow(clippy::zombie_processes)]
fn traced(contender: &Contender, pod: &Pod) -> (u64, Vec<u8>) {
    let mut child = exec::command(contender.plugin(), &contender.environment("ADD", pod))
        .spawn()
        .expect("the plugin starts");
    let pid = Pid::from_raw(child.id().cast_signed());
    // It waits for its configuration until then.
    ptrace::seize(pid, ptrace::Options::PTRACE_O_TRACEEXIT).expect("the plugin is traced");
    child.stdin.take().expect("it is piped").write_all(&contender.conf("ADD", pod)).expect("it reads");
    let mut peak = 0;
    loop {
        let signal = match waitpid(pid, None).expect("it is a child") {
            WaitStatus::Exited(..) | WaitStatus::Signaled(..) => break,
            WaitStatus::PtraceEvent(..) => {
                peak = peak.max(status(pid, "VmHWM"));
                None
            }
            WaitStatus::Stopped(_, signal) => Some(signal),
            _ => None,
        };
        // It may have been killed meanwhile; then the next wait tells.
        let _ = ptrace::cont(pid, signal);
    }
    let mut printed = Vec::new();
    child.stdout.take().expect("it is piped").read_to_end(&mut printed).expect("its output is read");
    (peak, printed)
}

/// How often a process's threads woke up per second while nobody asked for anything.
pub(crate) fn wake_ups(pid: Pid) -> f64 {
    const SPAN: Duration = Duration::from_secs(5);
    let switches = || -> u64 {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        let texts = tasks.filter_map(|task| fs::read_to_string(task.path().join("status")).ok());
        texts.map(|text| number_of(&text, "voluntary_ctxt_switches")).sum()
    };
    let before = switches();
    thread::sleep(SPAN);
    switches().saturating_sub(before) as f64 / SPAN.as_secs_f64()
}

/// System calls of one operation, with children and threads.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Calls {
    /// The plugin's.
    pub(crate) plugin: f64,
    /// The daemon's, the reaper's included; none without a daemon, or when strace failed.
    pub(crate) daemon: Option<f64>,
}

/// Counts the system calls of an ADD and of a DEL.
pub(crate) fn calls(contender: &Contender, folder: &Path) -> (Calls, Calls) {
    let pods = contender.pods(4);
    contender.wait_free(pods.len());
    let (pods, add_plugin) = plugin_calls(contender, "ADD", pods, folder);
    let (pods, del_plugin) = plugin_calls(contender, "DEL", pods, folder);
    pods.iter().for_each(|pod| remove_netns(&pod.netns));
    let pods = contender.pods(8);
    contender.wait_free(pods.len());
    let (pods, add_daemon) = daemon_calls(contender, "ADD", pods, folder);
    let (pods, del_daemon) = daemon_calls(contender, "DEL", pods, folder);
    pods.iter().for_each(|pod| remove_netns(&pod.netns));
    (Calls { plugin: add_plugin, daemon: add_daemon }, Calls { plugin: del_plugin, daemon: del_daemon })
}

fn plugin_calls(
    contender: &Contender,
    verb: &'static str,
    mut pods: Vec<Pod>,
    folder: &Path,
) -> (Vec<Pod>, f64) {
    let summary = folder.join("strace");
    let mut total = 0;
    for pod in &mut pods {
        let printed = inside(contender.host(), || {
            let environment = contender.environment(verb, pod);
            let mut command = exec::command(Path::new("strace"), &environment);
            command.args(["-f", "-c", "-qq", "-o"]).arg(&summary).arg(contender.plugin());
            exec::finish(command.spawn().expect("strace starts"), &contender.conf(verb, pod))
        });
        pod.answered(verb, &printed.unwrap_or_else(|error| panic!("{error}")))
            .unwrap_or_else(|e| panic!("{e}"));
        total += counted(&fs::read_to_string(&summary).expect("strace writes its summary"));
    }
    let count = pods.len() as f64;
    (pods, total as f64 / count)
}

fn daemon_calls(
    contender: &Contender,
    verb: &'static str,
    pods: Vec<Pod>,
    folder: &Path,
) -> (Vec<Pod>, Option<f64>) {
    let count = pods.len() as f64;
    let Some(pid) = contender.daemon() else {
        return (rounds::workers(contender, verb, pods, 1).0, None);
    };
    let summary = folder.join("strace-daemon");
    let mut strace = attach(pid, &summary);
    let (pods, _, _) = rounds::workers(contender, verb, pods, 1);
    if verb == "DEL" {
        thread::sleep(rounds::SETTLE);
    }
    let total = detach(&mut strace).then(|| fs::read_to_string(&summary).ok()).flatten();
    (pods, total.map(|summary| counted(&summary) as f64 / count))
}

fn attach(pid: Pid, summary: &Path) -> Child {
    let strace = Command::new("strace")
        .args(["-f", "-c", "-qq", "-o"])
        .arg(summary)
        .args(["-p", &pid.to_string()])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("strace starts");
    wait::until("strace has all threads", || {
        let mut tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("the daemon runs").flatten();
        tasks.all(|task| {
            let text = fs::read_to_string(task.path().join("status")).unwrap_or_default();
            number_of(&text, "TracerPid") != 0
        })
    });
    strace
}

/// Ends strace; false when it did not, and had to be killed: its detaching may wait for ever for a thread that sleeps.
fn detach(strace: &mut Child) -> bool {
    kill(Pid::from_raw(strace.id().cast_signed()), Signal::SIGINT).expect("strace runs");
    let ended = wait::holds_within(Duration::from_secs(5), || !matches!(strace.try_wait(), Ok(None)));
    if !ended {
        let _ = strace.kill();
        let _ = strace.wait();
    }
    ended
}

/// The calls in strace's summary: the fourth column of each row but the total.
fn counted(summary: &str) -> u64 {
    let rows = summary.lines().filter(|line| line.starts_with(char::is_whitespace) || line.starts_with('1'));
    let rows = rows.map(|row| row.split_whitespace().collect::<Vec<_>>());
    let calls = rows.filter(|row| row.len() >= 5 && row.last() != Some(&"total"));
    calls.filter_map(|row| row[3].parse::<u64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_of_strace_is_added_up() {
        let summary = "% time     seconds  usecs/call     calls    errors syscall\n\
                       ------ ----------- ----------- --------- --------- ----------------\n \
                       45.20    0.001000          10       100        20 futex\n \
                       10.00    0.000100           5         7           openat\n\
                       100.00    0.000100           5         1           read\n  \
                       0.00    0.000000           0         2         1 execve\n\
                       ------ ----------- ----------- --------- --------- ----------------\n\
                       100.00    0.001100           8       110        21 total\n";
        assert_eq!(counted(summary), 110);
        assert_eq!(counted(""), 0);
    }

    #[test]
    fn numbers_of_a_status_are_found() {
        let status = "Name:\tipamd\nVmHWM:\t    5012 kB\nVmRSS:\t    4800 kB\nTracerPid:\t0\n";
        assert_eq!(
            [number_of(status, "VmHWM"), number_of(status, "VmRSS"), number_of(status, "Vm")],
            [5012, 4800, 0]
        );
    }
}
