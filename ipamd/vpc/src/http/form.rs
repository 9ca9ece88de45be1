//! The parameters of EC2's Query API, as a form: `Name=value`, lists as `Name.1`, structures as `Name.1.Member`.
//!
//! Owns taking them apart, and that each is taken: one that nobody takes is refused as EC2 refuses it ("An unknown or
//! unrecognized parameter was supplied"), so that no wrong name passes in silence.

use std::collections::BTreeMap;

/// Parameters that were not taken yet.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Parameters(BTreeMap<String, String>);

/// A code of EC2 and its words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) code: &'static str,
    pub(super) message: String,
}

impl Refused {
    pub(super) fn new(code: &'static str, message: String) -> Refused {
        Refused { code, message }
    }
}

impl Parameters {
    /// Takes a form apart.
    pub(super) fn parse(text: &str) -> Result<Parameters, Refused> {
        let mut parameters = BTreeMap::new();
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (Some(name), Some(value)) = (decoded(name), decoded(value)) else {
                return Err(Refused::new("MalformedQueryString", format!("{pair} is not encoded rightly")));
            };
            if parameters.insert(name.clone(), value).is_some() {
                return Err(Refused::new("MalformedQueryString", format!("{name} is there twice")));
            }
        }
        Ok(Parameters(parameters))
    }

    /// One value.
    pub(super) fn take(&mut self, name: &str) -> Option<String> {
        self.0.remove(name)
    }

    /// One value that has to be there.
    pub(super) fn require(&mut self, name: &str) -> Result<String, Refused> {
        self.take(name).ok_or_else(|| {
            Refused::new("MissingParameter", format!("The request must contain the parameter {name}"))
        })
    }

    /// One value, read as what it is.
    pub(super) fn read<T: std::str::FromStr>(&mut self, name: &str) -> Result<Option<T>, Refused> {
        let Some(value) = self.take(name) else { return Ok(None) };
        value.parse().map(Some).map_err(|_| unreadable(name, &value))
    }

    /// `Name.1`, `Name.2` and so on: the values, in their order.
    pub(super) fn list(&mut self, name: &str) -> Vec<String> {
        (1..).map_while(|number| self.take(&format!("{name}.{number}"))).collect()
    }

    /// The same, each read as what it is.
    pub(super) fn read_list<T: std::str::FromStr>(&mut self, name: &str) -> Result<Vec<T>, Refused> {
        let values = self.list(name);
        values.into_iter().map(|value| value.parse().map_err(|_| unreadable(name, &value))).collect()
    }

    /// `Name.1.Member` and so on: what belongs to each number, to be taken apart and ended like this.
    pub(super) fn structures(&mut self, name: &str) -> Vec<Parameters> {
        let member = |number: usize| format!("{name}.{number}.");
        let mut structures = Vec::new();
        loop {
            let prefix = member(structures.len() + 1);
            let (own, rest) =
                std::mem::take(&mut self.0).into_iter().partition(|(name, _)| name.starts_with(&prefix));
            self.0 = rest;
            let own: BTreeMap<String, String> = own;
            if own.is_empty() {
                return structures;
            }
            let own = own.into_iter().map(|(name, value)| (name[prefix.len()..].to_owned(), value));
            structures.push(Parameters(own.collect()));
        }
    }

    /// Nothing is left.
    pub(super) fn end(self) -> Result<(), Refused> {
        match self.0.into_keys().next() {
            None => Ok(()),
            Some(name) => {
                let message = format!("The parameter {name} is not recognized");
                Err(Refused::new("UnknownParameter", message))
            }
        }
    }
}

fn unreadable(name: &str, value: &str) -> Refused {
    Refused::new("InvalidParameterValue", format!("Value ({value}) for parameter {name} is invalid."))
}

/// `%2F` and `+` read back.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let (high, low) = (rest.next()?, rest.next()?);
                let digit = |byte: u8| char::from(byte).to_digit(16);
                u8::try_from(digit(high)? * 16 + digit(low)?).ok()?
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_lists_and_structures_are_taken_and_the_rest_is_refused() {
        let text = "A=x%2Fy+z&L.1=1&L.2=2&S.1.K=a&S.1.V.1=b&S.2.K=c&Odd=1&L.4=4";
        let mut form = Parameters::parse(text).unwrap();
        assert_eq!(form.take("A").as_deref(), Some("x/y z"));
        assert_eq!(form.read_list::<u32>("L").unwrap(), [1, 2], "a gap ends it");
        let mut structures = form.structures("S");
        assert_eq!(structures.len(), 2);
        assert_eq!(structures[0].list("V"), ["b"]);
        assert_eq!(structures[0].require("K").unwrap(), "a");
        assert!(structures[0].clone().end().is_ok());
        assert_eq!(structures[1].clone().end().unwrap_err().code, "UnknownParameter");
        assert_eq!(form.require("B").unwrap_err().code, "MissingParameter");
        assert_eq!(form.read::<u32>("Odd").unwrap(), Some(1));
        let left = form.end().unwrap_err();
        assert!(left.code == "UnknownParameter" && left.message.contains("L.4"), "{left:?}");
    }

    #[test]
    fn what_is_not_encoded_rightly_is_refused() {
        for text in ["A=%2", "A=%zz", "A=%ff", "A=1&A=2"] {
            assert_eq!(Parameters::parse(text).unwrap_err().code, "MalformedQueryString", "{text}");
        }
        assert_eq!(Parameters::parse("").unwrap(), Parameters::default());
    }
}
