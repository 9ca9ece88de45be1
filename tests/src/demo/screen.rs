//! What the demo prints: steps with their times, checks that hold or fail.
//!
//! Owns the count of checks. Prints plain lines: they are read on terminals and quoted in documents.

#![allow(clippy::print_stdout)]

use eni_proto::client::boottime;
use std::process::ExitCode;
use std::time::Duration;

/// The screen.
pub(super) struct Screen {
    began: Duration,
    number: u32,
    step: Option<(String, Duration)>,
    times: Vec<(String, Duration)>,
    held: u32,
    failed: u32,
}

impl Screen {
    pub(super) fn new() -> Screen {
        Screen { began: boottime(), number: 0, step: None, times: Vec::new(), held: 0, failed: 0 }
    }

    pub(super) fn title(&self, text: &str) {
        println!("{text}");
    }

    /// Begins a step; the one before has ended.
    pub(super) fn step(&mut self, text: &str) {
        self.close();
        self.number += 1;
        println!("\n{}. {text}", self.number);
        self.step = Some((text.to_owned(), boottime()));
    }

    fn close(&mut self) {
        if let Some((text, began)) = self.step.take() {
            self.times.push((text, boottime().saturating_sub(began)));
        }
    }

    /// A line of what is seen.
    pub(super) fn say(&self, text: &str) {
        println!("       {text}");
    }

    /// Something that must hold.
    pub(super) fn check(&mut self, held: bool, text: &str) {
        if held {
            self.held += 1;
            println!("   ok  {text}");
        } else {
            self.failed += 1;
            println!("FAILED {text}");
        }
    }

    /// Something that holds when nothing is against it.
    pub(super) fn check_list(&mut self, text: &str, against: &[String]) {
        self.check(against.is_empty(), text);
        for line in against {
            self.say(line);
        }
    }

    /// The times, the counts and the exit code.
    pub(super) fn end(mut self) -> ExitCode {
        self.close();
        println!("\ntimes");
        for (number, (text, time)) in self.times.iter().enumerate() {
            println!("  {:>2}. {text:<66} {:>8}", number + 1, milliseconds(*time));
        }
        println!("      {:<66} {:>8}", "together", milliseconds(boottime().saturating_sub(self.began)));
        println!("\n{} checks held, {} failed", self.held, self.failed);
        if self.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

/// A span in milliseconds.
pub(super) fn milliseconds(span: Duration) -> String {
    let micros = span.as_micros();
    if micros < 10_000 {
        format!("{}.{} ms", micros / 1000, micros % 1000 / 100)
    } else {
        format!("{} ms", micros / 1000)
    }
}
