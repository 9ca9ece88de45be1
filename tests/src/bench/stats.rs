//! Order statistics of samples.
//!
//! Owns how a quantile is taken: nearest rank, so that each is a value that was measured.

/// Samples of one quantity.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Samples(Vec<f64>);

impl Samples {
    /// One more.
    pub(crate) fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    /// How many.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The `q`-quantile, 0 to 1; of no samples, none.
    pub(crate) fn quantile(&self, q: f64) -> Option<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let rank = (sorted.len() as f64 * q).ceil() as usize;
        sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).copied()
    }

    /// The middle one.
    pub(crate) fn median(&self) -> Option<f64> {
        self.quantile(0.5)
    }

    /// The mean.
    pub(crate) fn mean(&self) -> Option<f64> {
        if self.0.is_empty() { None } else { Some(self.0.iter().sum::<f64>() / self.0.len() as f64) }
    }
}

impl FromIterator<f64> for Samples {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Self {
        Samples(values.into_iter().collect())
    }
}

/// `of` as a multiple of `to`; none when either is missing, or `to` is zero.
pub(crate) fn ratio(of: Option<f64>, to: Option<f64>) -> Option<f64> {
    match (of, to) {
        (Some(of), Some(to)) if to != 0.0 => Some(of / to),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_the_nearest_rank() {
        let samples: Samples = (1..=100).rev().map(f64::from).collect();
        let of = [0.0, 0.1, 0.5, 0.9, 0.99, 1.0].map(|q| samples.quantile(q).unwrap());
        assert_eq!(of, [1.0, 10.0, 50.0, 90.0, 99.0, 100.0]);
        assert_eq!(samples.mean(), Some(50.5));
        let one: Samples = [7.0].into_iter().collect();
        assert_eq!((one.quantile(0.0), one.quantile(0.99)), (Some(7.0), Some(7.0)));
    }

    #[test]
    fn nothing_has_no_quantile_and_no_ratio() {
        let none = Samples::default();
        assert_eq!((none.median(), none.mean(), none.len()), (None, None, 0));
        assert_eq!(ratio(Some(3.0), Some(2.0)), Some(1.5));
        assert_eq!((ratio(Some(3.0), Some(0.0)), ratio(None, Some(1.0))), (None, None));
    }
}
