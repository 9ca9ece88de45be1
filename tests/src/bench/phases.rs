//! Where one operation's time goes: ipamd's own histograms beside the wall time from outside.
//!
//! Owns the reading of `operation_seconds` and the sum. Means are used, because a histogram has nothing finer; both sides
//! are of the same operations.

use crate::bench::contender::Contender;
use crate::bench::exec;
use crate::bench::pods::{inside, remove_netns};
use crate::bench::rounds::{milliseconds, workers};
use crate::bench::stats::Samples;
use std::collections::BTreeMap;

const METRIC: &str = "eni_ipamd_operation_seconds";
/// Runs of VERSION, which does nothing but start and end.
const STARTS: usize = 32;

/// The mean of an operation's parts, in milliseconds.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Parts {
    /// From spawn to wait, seen from outside.
    pub(crate) outside: f64,
    /// The plugin's start and end, measured on VERSION.
    pub(crate) start: f64,
    /// In ipamd, from the request's arrival to its first effect.
    pub(crate) queue: f64,
    /// In ipamd, the commit; it runs beside the wiring.
    pub(crate) commit: f64,
    /// In ipamd, the wiring or the taking off.
    pub(crate) wire: f64,
    /// In ipamd, all.
    pub(crate) total: f64,
}

impl Parts {
    /// What is left: reading the configuration, the sandbox's socket, both ways through cni.sock with their wake-ups,
    /// printing.
    pub(crate) fn rest(&self) -> f64 {
        self.outside - self.start - self.total
    }
}

/// Measures ADD and DEL, one at a time.
pub(crate) fn measure(contender: &Contender, rounds: usize, pods: usize) -> Option<(Parts, Parts)> {
    let node = contender.node()?;
    let scrape = || {
        let (status, text) = node.http("GET", "/metrics");
        assert_eq!(status, 200, "{text}");
        histograms(&text)
    };
    let before = scrape();
    let mut outside = [Samples::default(), Samples::default()];
    for _ in 0..rounds {
        contender.wait_free(pods);
        let (made, adds, _) = workers(contender, "ADD", contender.pods(pods), 1);
        let (gone, dels, _) = workers(contender, "DEL", made, 1);
        gone.iter().for_each(|pod| remove_netns(&pod.netns));
        for (samples, costs) in outside.iter_mut().zip([adds, dels]) {
            costs.iter().for_each(|cost| samples.push(milliseconds(cost.wall)));
        }
    }
    let after = scrape();
    let start = start(contender);
    let parts = |verb: &str, outside: &Samples| {
        let mean = |phase: &str| mean_between(&before, &after, verb, phase);
        Parts {
            outside: outside.mean().unwrap_or(f64::NAN),
            start,
            queue: mean("queue"),
            commit: mean("commit"),
            wire: mean("wire"),
            total: mean("total"),
        }
    };
    Some((parts("add", &outside[0]), parts("del", &outside[1])))
}

/// The mean wall time of a run that does nothing.
fn start(contender: &Contender) -> f64 {
    let environment = vec![("CNI_COMMAND".to_owned(), "VERSION".to_owned())];
    let conf = br#"{"cniVersion":"1.0.0"}"#;
    let runs = inside(contender.host(), || {
        let run =
            || exec::run(contender.plugin(), &environment, conf).unwrap_or_else(|error| panic!("{error}"));
        (0..STARTS).map(|_| milliseconds(run().0.wall)).collect::<Samples>()
    });
    runs.mean().unwrap_or(f64::NAN)
}

/// The p50 of STATUS, in milliseconds.
pub(crate) fn status(contender: &Contender, runs: usize) -> Samples {
    let pod = &contender.pods(1)[0];
    let environment = contender.environment("STATUS", pod);
    let conf =
        String::from_utf8(contender.conf("STATUS", pod)).expect("JSON is text").replace("1.0.0", "1.1.0");
    let run = || {
        exec::run(contender.plugin(), &environment, conf.as_bytes()).unwrap_or_else(|error| panic!("{error}"))
    };
    let samples = inside(contender.host(), || (0..runs).map(|_| milliseconds(run().0.wall)).collect());
    remove_netns(&pod.netns);
    samples
}

/// Sum and count by verb and phase, of what went well.
type Histograms = BTreeMap<(String, String), (f64, f64)>;

fn histograms(text: &str) -> Histograms {
    let mut found = Histograms::new();
    for line in text.lines().filter_map(|line| line.strip_prefix(METRIC)) {
        let Some((name, rest)) = line.split_once('{') else { continue };
        let Some((labels, value)) = rest.split_once("} ") else { continue };
        let label = |wanted: &str| {
            let mut pairs = labels.split(',').filter_map(|pair| pair.split_once('='));
            pairs.find(|(name, _)| *name == wanted).map(|(_, value)| value.trim_matches('"').to_owned())
        };
        let (Some(verb), Some(phase), Some("ok")) =
            (label("verb"), label("phase"), label("outcome").as_deref())
        else {
            continue;
        };
        let entry = found.entry((verb, phase)).or_default();
        match (name, value.parse()) {
            ("_sum", Ok(sum)) => entry.0 = sum,
            ("_count", Ok(count)) => entry.1 = count,
            _ => {}
        }
    }
    found
}

fn mean_between(before: &Histograms, after: &Histograms, verb: &str, phase: &str) -> f64 {
    let of = |all: &Histograms| all.get(&(verb.to_owned(), phase.to_owned())).copied().unwrap_or_default();
    let ((sum_before, count_before), (sum, count)) = (of(before), of(after));
    (sum - sum_before) / (count - count_before) * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histograms_are_read_and_subtracted() {
        let text = |sum: f64, count: u32| {
            format!(
                "# TYPE eni_ipamd_operation_seconds histogram\n\
                 eni_ipamd_operation_seconds_sum{{verb=\"add\",phase=\"wire\",outcome=\"ok\"}} {sum}\n\
                 eni_ipamd_operation_seconds_count{{verb=\"add\",phase=\"wire\",outcome=\"ok\"}} {count}\n\
                 eni_ipamd_operation_seconds_bucket{{le=\"0.001\",verb=\"add\",phase=\"wire\",outcome=\"ok\"}} 9\n\
                 eni_ipamd_operation_seconds_sum{{verb=\"add\",phase=\"wire\",outcome=\"failed\"}} 7\n\
                 eni_ipamd_ready 1\n"
            )
        };
        let (before, after) = (histograms(&text(0.5, 10)), histograms(&text(0.7, 20)));
        assert_eq!(before.len(), 1);
        assert!((mean_between(&before, &after, "add", "wire") - 20.0).abs() < 1e-9);
        assert!(mean_between(&before, &after, "del", "wire").is_nan());
    }
}
