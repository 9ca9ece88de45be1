//! What the runtime says in the environment: the verb and its CNI_* variables.
//!
//! Owns which variable each verb needs and what it may look like (CNI spec, "Parameters", and what the reference
//! skeleton makes of it). Gets its variables from a function: `entry` alone reads the process's environment.

use eni_proto::ids::{ContainerId, IdError, Ifname};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::str::FromStr;

/// The verbs that this version serves, as messages name them.
pub(crate) const VERBS: &str = "ADD, DEL, CHECK, GC, STATUS, VERSION";

/// A traceparent is 55 bytes in version 00 (W3C Trace Context); a longer one than this is not passed on.
const TRACEPARENT_MAX: usize = 128;

/// Looks a variable up.
pub(crate) type Lookup<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// What is asked, with what belongs to it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Verb {
    /// CNI_COMMAND is unset: a person ran the plugin by hand.
    About,
    /// Which versions are served.
    Version,
    /// Can this node serve ADD?
    Status,
    /// Connect a container.
    Add(Container),
    /// Disconnect a container.
    Del(Container),
    /// Is a container connected as its ADD has done it?
    Check(Container),
    /// Collect what the runtime does not know any more.
    Gc {
        /// TRACEPARENT, when the runtime traces.
        traceparent: Option<String>,
    },
}

/// The container that ADD, DEL and CHECK are about.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Container {
    /// CNI_CONTAINERID.
    pub(crate) id: ContainerId,
    /// CNI_IFNAME.
    pub(crate) ifname: Ifname,
    /// CNI_NETNS, as written; empty when a DEL has none.
    pub(crate) netns: String,
    /// CNI_ARGS, pair by pair. Empty for DEL, which does not use them: a DEL is never refused because of them.
    pub(crate) args: BTreeMap<String, String>,
    /// CNI_NETNS_OVERRIDE: the caller wants its own network namespace, and knows it.
    pub(crate) own_netns_allowed: bool,
    /// TRACEPARENT, when the runtime traces.
    pub(crate) traceparent: Option<String>,
}

/// Why the environment is refused: error 4.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum EnvironmentError {
    /// Variables that the verb needs are unset or empty: all of them.
    Missing { verb: String, variables: Vec<&'static str> },
    /// CNI_COMMAND is none of [`VERBS`].
    UnknownVerb { verb: String },
    /// A variable is not UTF-8.
    NotText { variable: &'static str },
    /// A variable breaks the rule of its kind.
    Invalid { variable: &'static str, cause: IdError },
    /// A part of CNI_ARGS is no pair.
    Args { pair: String },
}

impl fmt::Display for EnvironmentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EnvironmentError::Missing { verb, variables } => {
                write!(f, "{verb} needs {}: unset or empty", variables.join(", "))
            }
            EnvironmentError::UnknownVerb { verb } => {
                write!(f, "CNI_COMMAND {verb:?} is not served; served are {VERBS}")
            }
            EnvironmentError::NotText { variable } => write!(f, "{variable} is not UTF-8"),
            EnvironmentError::Invalid { variable, cause } => write!(f, "{variable}: {cause}"),
            EnvironmentError::Args { pair } => {
                write!(f, "CNI_ARGS: {pair:?} is not a pair with exactly one '='")
            }
        }
    }
}

impl std::error::Error for EnvironmentError {}

impl Verb {
    /// Its name, for the log.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Verb::About => "about",
            Verb::Version => "VERSION",
            Verb::Status => "STATUS",
            Verb::Add(_) => "ADD",
            Verb::Del(_) => "DEL",
            Verb::Check(_) => "CHECK",
            Verb::Gc { .. } => "GC",
        }
    }

    /// Reads the verb and its variables.
    pub(crate) fn read(lookup: Lookup<'_>) -> Result<Verb, EnvironmentError> {
        let verb = text(lookup, "CNI_COMMAND")?;
        match verb.as_str() {
            "" => Ok(Verb::About),
            "VERSION" => Ok(Verb::Version),
            "STATUS" => Ok(Verb::Status),
            "ADD" => Ok(Verb::Add(Container::read(lookup, &verb, true)?)),
            "DEL" => Ok(Verb::Del(Container::read(lookup, &verb, false)?)),
            "CHECK" => Ok(Verb::Check(Container::read(lookup, &verb, true)?)),
            "GC" if !has_path(lookup) => Err(EnvironmentError::Missing { verb, variables: vec!["CNI_PATH"] }),
            "GC" => Ok(Verb::Gc { traceparent: traceparent(lookup) }),
            _ => Err(EnvironmentError::UnknownVerb { verb: verb.chars().take(32).collect() }),
        }
    }
}

impl Container {
    /// `whole`: as ADD and CHECK need it. DEL comes without a netns, and its CNI_ARGS do not matter.
    fn read(lookup: Lookup<'_>, verb: &str, whole: bool) -> Result<Container, EnvironmentError> {
        let id = text(lookup, "CNI_CONTAINERID")?;
        let netns = text(lookup, "CNI_NETNS")?;
        let ifname = text(lookup, "CNI_IFNAME")?;
        let variables: Vec<_> = [
            ("CNI_CONTAINERID", id.is_empty()),
            ("CNI_NETNS", whole && netns.is_empty()),
            ("CNI_IFNAME", ifname.is_empty()),
            ("CNI_PATH", !has_path(lookup)),
        ]
        .into_iter()
        .filter_map(|(variable, missing)| missing.then_some(variable))
        .collect();
        if !variables.is_empty() {
            return Err(EnvironmentError::Missing { verb: verb.to_owned(), variables });
        }
        Ok(Container {
            id: parsed("CNI_CONTAINERID", &id)?,
            ifname: parsed("CNI_IFNAME", &ifname)?,
            netns,
            args: if whole { pairs(&text(lookup, "CNI_ARGS")?)? } else { BTreeMap::new() },
            own_netns_allowed: is_true(&text(lookup, "CNI_NETNS_OVERRIDE").unwrap_or_default()),
            traceparent: traceparent(lookup),
        })
    }
}

/// CNI_PATH is not used, since nothing is delegated; the reference skeleton asks for it, so a caller without it is
/// broken.
fn has_path(lookup: Lookup<'_>) -> bool {
    lookup("CNI_PATH").is_some_and(|path| !path.is_empty())
}

fn traceparent(lookup: Lookup<'_>) -> Option<String> {
    let text = text(lookup, "TRACEPARENT").unwrap_or_default();
    (1..=TRACEPARENT_MAX).contains(&text.len()).then_some(text)
}

/// A variable's text; empty when it is unset.
fn text(lookup: Lookup<'_>, variable: &'static str) -> Result<String, EnvironmentError> {
    let value = lookup(variable).unwrap_or_default();
    value.into_string().map_err(|_| EnvironmentError::NotText { variable })
}

fn parsed<T: FromStr<Err = IdError>>(variable: &'static str, text: &str) -> Result<T, EnvironmentError> {
    text.parse().map_err(|cause| EnvironmentError::Invalid { variable, cause })
}

/// `K=V;K=V` in any order. As in the reference parser each part has exactly one '='.
fn pairs(args: &str) -> Result<BTreeMap<String, String>, EnvironmentError> {
    if args.is_empty() {
        return Ok(BTreeMap::new());
    }
    let pair = |pair: &str| match pair.split_once('=') {
        Some((key, value)) if !value.contains('=') => Ok((key.to_owned(), value.to_owned())),
        _ => Err(EnvironmentError::Args { pair: pair.chars().take(64).collect() }),
    };
    args.split(';').map(pair).collect()
}

/// The reference skeleton's rule for switches in the environment.
fn is_true(text: &str) -> bool {
    text == "1" || text.eq_ignore_ascii_case("true")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStringExt;

    const WHOLE: [(&str, &str); 5] = [
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", "ABC-1"),
        ("CNI_NETNS", "/run/netns/a"),
        ("CNI_IFNAME", "eth0"),
        ("CNI_PATH", "/opt/cni/bin"),
    ];

    /// The verb, with some variables changed ("" unsets).
    fn read(changes: &[(&str, &str)]) -> Result<Verb, EnvironmentError> {
        let mut variables: BTreeMap<&str, &str> = WHOLE.into();
        variables.extend(changes.iter().copied());
        Verb::read(&|name| variables.get(name).filter(|v| !v.is_empty()).map(OsString::from))
    }

    fn container(verb: Verb) -> Container {
        match verb {
            Verb::Add(container) | Verb::Del(container) | Verb::Check(container) => container,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn add_has_all_of_it() {
        let args = "K8S_POD_NAME=web-0;IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_UID=";
        let add =
            read(&[("CNI_ARGS", args), ("TRACEPARENT", "00-ab"), ("CNI_NETNS_OVERRIDE", "True")]).unwrap();
        let Verb::Add(add) = add else { panic!("{add:?}") };
        assert_eq!(
            (add.id.as_str(), add.ifname.as_str(), add.netns.as_str()),
            ("ABC-1", "eth0", "/run/netns/a")
        );
        assert_eq!(add.args["K8S_POD_NAME"], "web-0");
        assert_eq!(add.args["K8S_POD_UID"], "");
        assert_eq!(add.args.len(), 4);
        assert_eq!(add.traceparent.as_deref(), Some("00-ab"));
        assert!(add.own_netns_allowed);
        assert!(!container(read(&[("CNI_NETNS_OVERRIDE", "0")]).unwrap()).own_netns_allowed);
    }

    #[test]
    fn all_missing_variables_are_named_at_once() {
        let none: Vec<_> = WHOLE[1..].iter().map(|(name, _)| (*name, "")).collect();
        let error = read(&none).unwrap_err().to_string();
        assert_eq!(error, "ADD needs CNI_CONTAINERID, CNI_NETNS, CNI_IFNAME, CNI_PATH: unset or empty");
        let error = read(&[none.clone(), vec![("CNI_COMMAND", "DEL")]].concat()).unwrap_err().to_string();
        assert_eq!(error, "DEL needs CNI_CONTAINERID, CNI_IFNAME, CNI_PATH: unset or empty");
        let error = read(&[none.clone(), vec![("CNI_COMMAND", "CHECK")]].concat()).unwrap_err().to_string();
        assert_eq!(error, "CHECK needs CNI_CONTAINERID, CNI_NETNS, CNI_IFNAME, CNI_PATH: unset or empty");
        let error = read(&[none.clone(), vec![("CNI_COMMAND", "GC")]].concat()).unwrap_err().to_string();
        assert_eq!(error, "GC needs CNI_PATH: unset or empty");
        for verb in ["STATUS", "VERSION"] {
            assert!(read(&[none.clone(), vec![("CNI_COMMAND", verb)]].concat()).is_ok(), "{verb}");
        }
        assert_eq!(read(&[none, vec![("CNI_COMMAND", "")]].concat()), Ok(Verb::About));
    }

    #[test]
    fn del_needs_no_netns_and_minds_no_args() {
        let del = read(&[("CNI_COMMAND", "DEL"), ("CNI_NETNS", ""), ("CNI_ARGS", "nonsense")]).unwrap();
        assert_eq!(container(del).netns, "");
    }

    #[test]
    fn check_is_about_a_container_and_gc_about_none() {
        let check = read(&[("CNI_COMMAND", "CHECK"), ("TRACEPARENT", "00-ab")]).unwrap();
        assert_eq!(check.name(), "CHECK");
        let check = container(check);
        assert_eq!((check.id.as_str(), check.traceparent.as_deref()), ("ABC-1", Some("00-ab")));
        let changes = [("CNI_COMMAND", "GC"), ("CNI_CONTAINERID", ""), ("CNI_IFNAME", ""), ("CNI_NETNS", "")];
        let gc = read(&[&changes[..], &[("TRACEPARENT", "00-ab")]].concat());
        assert_eq!(gc, Ok(Verb::Gc { traceparent: Some("00-ab".to_owned()) }));
    }

    #[test]
    fn unserved_verbs_name_the_served_ones() {
        for verb in ["add", "UPDATE", "GCX"] {
            let error = read(&[("CNI_COMMAND", verb)]).unwrap_err().to_string();
            assert!(
                error.contains(verb) && error.ends_with("served are ADD, DEL, CHECK, GC, STATUS, VERSION"),
                "{error}"
            );
        }
    }

    #[test]
    fn bad_values_name_their_variable() {
        for (variable, value) in [
            ("CNI_CONTAINERID", "-a"),
            ("CNI_CONTAINERID", "a/b"),
            ("CNI_IFNAME", "0123456789abcdef"),
            ("CNI_IFNAME", ".."),
            ("CNI_ARGS", "A"),
            ("CNI_ARGS", "A=1;B=2=3"),
            ("CNI_ARGS", "A=1;"),
        ] {
            let error = read(&[(variable, value)]).unwrap_err().to_string();
            assert!(error.starts_with(variable), "{value}: {error}");
        }
    }

    #[test]
    fn what_is_not_text_is_refused_and_a_long_trace_is_dropped() {
        let lookup = |name: &str| match name {
            "CNI_NETNS" => Some(OsString::from_vec(vec![b'/', 0xff])),
            _ => WHOLE.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into()),
        };
        assert_eq!(Verb::read(&lookup), Err(EnvironmentError::NotText { variable: "CNI_NETNS" }));
        let long = "a".repeat(TRACEPARENT_MAX + 1);
        assert_eq!(container(read(&[("TRACEPARENT", &long)]).unwrap()).traceparent, None);
    }
}
