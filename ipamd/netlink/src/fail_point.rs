//! Points at which a test ends this process by SIGKILL, to see what a crash there leaves.
//!
//! Owns the one plan of a process and the counting towards it. It lies here because the lowest of ipamd's layers has such
//! points; the store and the sockets use it, too. Without the feature `fail-points`, which no release has, nothing of it
//! is compiled in. Decides nothing.

#[cfg(feature = "fail-points")]
mod planned {
    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

    #[derive(Debug)]
    struct Plan {
        verb: String,
        container: String,
        point: String,
        left: AtomicU32,
        armed: AtomicBool,
    }

    static PLAN: OnceLock<Plan> = OnceLock::new();

    /// Takes the plan `VERB CONTAINER POINT N`: at the Nth time that the point is passed after that request has come.
    pub fn plan(text: &str) -> Result<(), String> {
        let words: Vec<&str> = text.split(' ').collect();
        let [verb, container, point, count] = words[..] else {
            return Err(format!("{text:?} is not: VERB CONTAINER POINT N"));
        };
        let left = count.parse::<u32>().ok().filter(|n| *n > 0).ok_or("N is a number from 1 on")?;
        let own = |word: &str| word.to_owned();
        let plan = Plan {
            verb: own(verb),
            container: own(container),
            point: own(point),
            left: AtomicU32::new(left),
            armed: AtomicBool::new(false),
        };
        PLAN.set(plan).map_err(|_| "there is a plan already".to_owned())
    }

    /// A request has come: counting begins when it is the plan's.
    pub fn arm(verb: &str, container: &str) {
        if let Some(plan) = PLAN.get()
            && plan.verb == verb
            && plan.container == container
        {
            plan.armed.store(true, Ordering::SeqCst);
        }
    }

    /// Passes a point; does not return when it is the planned one.
    pub fn pass(point: &str) {
        let Some(plan) = PLAN.get().filter(|plan| plan.armed.load(Ordering::SeqCst)) else { return };
        if plan.point == point && plan.left.fetch_sub(1, Ordering::SeqCst) == 1 {
            let _ = kill(Pid::this(), Signal::SIGKILL);
            loop {
                std::thread::park();
            }
        }
    }
}

#[cfg(feature = "fail-points")]
pub use planned::{arm, pass, plan};

/// A request has come; no fail points are compiled in.
#[cfg(not(feature = "fail-points"))]
#[inline(always)]
pub fn arm(_verb: &str, _container: &str) {}

/// Passes a point; no fail points are compiled in.
#[cfg(not(feature = "fail-points"))]
#[inline(always)]
pub fn pass(_point: &str) {}
