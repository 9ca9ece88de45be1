//! The command line of the bench, and how large each kind of run is.
//!
//! Owns the sizes. What they mean is in docs/performance.md.

use std::path::PathBuf;

/// How many pods there may be on our node, and what ipamd is told for it.
#[derive(Debug, Clone)]
pub(crate) struct Pool {
    /// The embedded VPC's instance type.
    pub(crate) instance_type: &'static str,
    /// Secondary addresses of the primary ENI at boot.
    pub(crate) addresses: u32,
    /// Lines added to ipamd's configuration.
    pub(crate) config: String,
}

impl Default for Pool {
    fn default() -> Self {
        Pool { instance_type: "bench.8x150", addresses: 149, config: String::new() }
    }
}

impl Pool {
    /// What ipamd is told: addresses for `most` pods are there before the first is added, and stay.
    pub(crate) fn ipamd_config(&self, most: usize) -> String {
        format!("[capacity]\nminimum_ip = {most}\nno_release = true\n{}", self.config)
    }
}

/// What is run.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// Where the JSON goes.
    pub(crate) json: Option<PathBuf>,
    /// The folder that graphs go to.
    pub(crate) svg: Option<PathBuf>,
    /// A short run.
    pub(crate) quick: bool,
    /// Pods that are present, one setting after the other, growing.
    pub(crate) present: Vec<usize>,
    /// Rounds of each setting.
    pub(crate) rounds: usize,
    /// Pods of a round.
    pub(crate) pods: usize,
    /// Measure the containers' side.
    pub(crate) containers: bool,
    /// Measure forwarding.
    pub(crate) forwarding: bool,
    /// Our node's addresses.
    pub(crate) pool: Pool,
}

/// What is printed for a command line that is not understood.
pub(crate) const USAGE: &str = "\
eni-bench [--json FILE] [--svg DIR] [--quick] [--only containers|forwarding]
          [--present 0,100,1000] [--rounds 8] [--pods 16]
          [--instance-type TYPE --addresses N] [--ipamd-config FILE]
--present: how many pods are there before a setting's rounds. --pods: how many each round adds and deletes.
--instance-type, --addresses: what our node's pool holds. --ipamd-config: lines added to ipamd's configuration.";

impl Plan {
    /// From the arguments after the program's name.
    pub(crate) fn read(arguments: impl IntoIterator<Item = String>) -> Result<Plan, String> {
        let arguments: Vec<String> = arguments.into_iter().collect();
        let quick = arguments.iter().any(|argument| argument == "--quick");
        let (rounds, pods) = if quick { (6, 8) } else { (8, 16) };
        let present = if quick { vec![0, 100] } else { vec![0, 100, 1000] };
        let mut plan = Plan {
            json: None,
            svg: None,
            quick,
            present,
            rounds,
            pods,
            containers: true,
            forwarding: true,
            pool: Pool::default(),
        };
        let mut rest = arguments.into_iter();
        while let Some(name) = rest.next() {
            if name == "--quick" {
                continue;
            }
            let value = rest.next().ok_or_else(|| format!("{name} needs a value, or is not known"))?;
            plan.set(&name, value)?;
        }
        plan.present.sort_unstable();
        Ok(plan)
    }

    /// The most pods that are there at any time.
    pub(crate) fn most_at_once(&self) -> usize {
        // Of what is measured once, a bystander's storm has the most.
        self.present.last().copied().unwrap_or(0) + self.pods.max(16)
    }

    fn set(&mut self, name: &str, value: String) -> Result<(), String> {
        let number = |value: &str| value.trim().parse::<usize>().map_err(|e| format!("{name} {value}: {e}"));
        match name {
            "--json" => self.json = Some(value.into()),
            "--svg" => self.svg = Some(value.into()),
            "--only" => {
                self.containers = value == "containers";
                self.forwarding = value == "forwarding";
                if self.containers == self.forwarding {
                    return Err(format!("--only {value}: containers or forwarding"));
                }
            }
            "--present" => self.present = value.split(',').map(number).collect::<Result<_, _>>()?,
            "--rounds" => self.rounds = number(&value)?.max(1),
            "--pods" => self.pods = number(&value)?.max(1),
            // It lives as long as the process.
            "--instance-type" => self.pool.instance_type = value.leak(),
            "--addresses" => self.pool.addresses = number(&value)?.try_into().map_err(|e| format!("{e}"))?,
            "--ipamd-config" => {
                self.pool.config = std::fs::read_to_string(&value).map_err(|e| format!("{value}: {e}"))?;
            }
            _ => return Err(format!("{name} is not known")),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Plan, String> {
        Plan::read(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn a_line_is_read() {
        let plan = read("--quick --json a.json --present 1000,0,100 --only forwarding --pods 4").unwrap();
        assert_eq!((plan.quick, plan.rounds, plan.pods), (true, 6, 4));
        assert_eq!(
            (plan.present.clone(), plan.containers, plan.forwarding),
            (vec![0, 100, 1000], false, true)
        );
        assert!(read("").unwrap().containers);
        assert_eq!(plan.most_at_once(), 1016);
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for line in ["--json", "--fast", "--rounds many", "--only pods", "--present 1,,2"] {
            assert!(read(line).is_err(), "{line}");
        }
    }
}
