//! The goals, and whether a run meets them.
//!
//! Owns the numbers that docs/performance.md promises. A goal whose measure a run does not have is neither met nor missed.

use crate::bench::Measured;
use crate::bench::containers::Containers;
use crate::bench::contender::Kind;
use crate::bench::forward::{Case, SIZES, Steering};
use crate::bench::rounds::{Series, Setting};
use crate::bench::stats::ratio;

/// A goal.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Goal {
    /// What is measured.
    pub(crate) what: String,
    /// What was measured.
    pub(crate) value: Option<f64>,
    /// The bound.
    pub(crate) bound: f64,
    /// Whether the bound is the least that will do, not the most.
    pub(crate) at_least: bool,
}

impl Goal {
    /// Whether it is met.
    pub(crate) fn met(&self) -> Option<bool> {
        self.value.map(|value| if self.at_least { value >= self.bound } else { value <= self.bound })
    }
}

fn at_most(what: &str, value: Option<f64>, bound: f64) -> Goal {
    Goal { what: what.to_owned(), value, bound, at_least: false }
}

fn at_least(what: &str, value: Option<f64>, bound: f64) -> Goal {
    Goal { at_least: true, ..at_most(what, value, bound) }
}

/// All goals.
pub(crate) fn of(measured: &Measured) -> Vec<Goal> {
    let mut goals = Vec::new();
    if let Some(containers) = &measured.containers {
        goals.extend(cost(containers));
        goals.extend(growth(containers));
        goals.extend(daemon(containers));
    }
    if !measured.forwarding.is_empty() {
        goals.extend(forwarding(&measured.forwarding));
    }
    goals
}

/// The setting of some pods present and some at a time.
pub(crate) fn setting(containers: &Containers, present: usize, parallel: usize) -> Option<&Setting> {
    containers.settings.iter().find(|s| s.present == present && s.parallel == parallel)
}

/// A contender's figure as a multiple of another's.
fn beside(setting: Option<&Setting>, to: Kind, figure: impl Fn(&Series) -> Option<f64>) -> Option<f64> {
    let of = |kind: Kind| {
        let at = Kind::ALL.iter().position(|other| *other == kind)?;
        figure(setting?.series.get(at)?)
    };
    ratio(of(Kind::Ours), of(to))
}

fn cost(containers: &Containers) -> Vec<Goal> {
    let one = setting(containers, 0, 1);
    let eight = setting(containers, 0, 8);
    let add = |series: &Series| series.add.wall.median();
    let del = |series: &Series| series.del.wall.median();
    let rate = |series: &Series| series.add.rate.median();
    vec![
        at_most("ADD wall p50, x floor", beside(one, Kind::Floor, add), 1.4),
        at_most("ADD wall p50, x ptp", beside(one, Kind::Ptp, add), 1.0 / 6.0),
        at_most("DEL wall p50, x floor", beside(one, Kind::Floor, del), 1.4),
        at_most("DEL wall p50, x ptp", beside(one, Kind::Ptp, del), 1.0 / 15.0),
        at_most("CPU of ADD + DEL, x floor", beside(one, Kind::Floor, Series::cpu), 1.5),
        at_most("CPU of ADD + DEL, x ptp", beside(one, Kind::Ptp, Series::cpu), 1.0 / 8.0),
        at_least("ADD/s at 8 at a time, x floor", beside(eight, Kind::Floor, rate), 0.7),
        at_least("ADD/s at 8 at a time, x ptp", beside(eight, Kind::Ptp, rate), 7.0),
        at_least("ADD/s at 8 at a time, x bridge", beside(eight, Kind::Bridge, rate), 7.0),
    ]
}

fn growth(containers: &Containers) -> Vec<Goal> {
    let most = containers.most;
    let series = |present| setting(containers, present, 1).map(|setting| &setting.series[0]);
    let grown = |figure: fn(&Series) -> Option<f64>| {
        ratio(series(most).and_then(figure), series(0).and_then(figure)).filter(|_| most > 0)
    };
    let add = |s: &Series| Some(s.add.cpu.median()? + s.add.daemon.median()?);
    let del = |s: &Series| Some(s.del.cpu.median()? + s.del.daemon.median()?);
    let fill = Some(containers.singles[0].fill).filter(|_| most >= 1000);
    vec![
        at_most(&format!("CPU of ADD, {most} pods x 0"), grown(add), 1.25),
        at_most(&format!("CPU of DEL, {most} pods x 0"), grown(del), 1.25),
        at_most("1000 pods from nothing, s", fill, 1.5),
    ]
}

fn daemon(containers: &Containers) -> Vec<Goal> {
    let (single, ours) = (&containers.singles[0], &containers.ours);
    let idle = single.rss.first().map(|(_, kib)| *kib as f64 / 1024.0);
    // From the first level with pods, where the store's cache has begun to fill.
    let slope = match (single.rss.get(1), single.rss.last()) {
        (Some((from, low)), Some((to, high))) if to > from => {
            Some((*high as f64 - *low as f64) / (to - from) as f64)
        }
        _ => None,
    };
    let restart = format!("start to first ADD after kill -9, {} pods, ms", containers.most);
    vec![
        at_most("a bystander's RTNL wait p90, ms", single.bystander.quantile(0.9), 0.1),
        at_most("daemon's RSS idle, MiB", idle, 10.0),
        at_most("daemon's RSS per pod, KiB", slope, 4.0),
        at_most("daemon's wake-ups per second, idle", Some(ours.wake_ups), 1.0),
        at_most(&restart, ours.restart.median(), 200.0),
        at_most("STATUS p50, ms", ours.status.median(), 1.0),
    ]
}

fn forwarding(cases: &[Case]) -> Vec<Goal> {
    use Steering::{Conntrack, Ours, PerPod, Rules};
    const MOST: usize = SIZES[SIZES.len() - 1];
    let find = |steering, pods, services, again| {
        cases.iter().find(|c| (c.steering, c.pods, c.services, c.again) == (steering, pods, services, again))
    };
    let p10 = |steering, pods, services, path: usize| find(steering, pods, services, false)?.p10(path);
    let times = |of, to, services, path| ratio(p10(of, MOST, services, path), p10(to, MOST, services, path));
    let worst = |values: &[Option<f64>]| values.iter().copied().flatten().reduce(f64::max);
    let flat = |path: usize| ratio(p10(Ours, MOST, false, path), p10(Ours, SIZES[0], false, path));
    let spread = |path: usize| {
        let again = find(Ours, SIZES[0], false, true).and_then(|case| case.p10(path));
        ratio(again, p10(Ours, SIZES[0], false, path)).map(|times| (times - 1.0).abs())
    };
    let spread = worst(&[0, 1, 2].map(spread)).unwrap_or(0.0);
    let all = |of: &dyn Fn(usize) -> Option<f64>| worst(&[of(0), of(1), of(2)]);
    vec![
        at_most("our table, x the same rules without it", all(&|path| times(Ours, Rules, false, path)), 1.04),
        at_most(
            "from pods, with services, x no steering",
            worst(&[times(Ours, Conntrack, true, 0), times(Ours, Conntrack, true, 1)]),
            1.12,
        ),
        at_most("in by an ENI, with services, x no steering", times(Ours, Conntrack, true, 2), 1.18),
        at_most(&format!("{MOST} pods x {} (spread {spread:.3})", SIZES[0]), all(&flat), 1.02 + spread),
        at_most(
            &format!("{MOST} pods, x two rules per pod"),
            all(&|path| times(Ours, PerPod, false, path)),
            1.0 / 2.5,
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::stats::Samples;

    #[test]
    fn a_goal_is_met_on_its_side_of_the_bound() {
        assert_eq!(at_most("x", Some(1.4), 1.4).met(), Some(true));
        assert_eq!(at_least("x", Some(6.9), 7.0).met(), Some(false));
        assert_eq!(at_most("x", None, 1.0).met(), None);
    }

    #[test]
    fn forwarding_is_set_beside_the_right_cases() {
        let case = |steering, pods, services, again, ns: f64| {
            let one: Samples = [ns].into_iter().collect();
            Case { steering, pods, services, again, ns: [one.clone(), one.clone(), one] }
        };
        let cases = [
            case(Steering::Rules, 1000, false, false, 100.0),
            case(Steering::Ours, 1000, false, false, 103.0),
            case(Steering::Ours, 10, false, false, 100.0),
            case(Steering::Ours, 10, false, true, 102.0),
            case(Steering::Conntrack, 1000, true, false, 100.0),
            case(Steering::Ours, 1000, true, false, 115.0),
            case(Steering::PerPod, 1000, false, false, 206.0),
        ];
        let goals = forwarding(&cases);
        let met: Vec<Option<bool>> = goals.iter().map(Goal::met).collect();
        assert_eq!(met, [true, false, true, true, false].map(Some), "{goals:?}");
        assert!((goals[0].value.unwrap() - 1.03).abs() < 1e-9);
    }
}
