//! Writes figures that are known only when they are asked for, in the OpenMetrics format.
//!
//! What a module counts a service is kept with the service and read at a scrape. A family of
//! prometheus-client would hold a lock while it is written, and somebody who counts a new service
//! would wait for whoever reads the page.

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeGaugeValue, MetricEncoder, NoLabelSet, text},
    metrics::MetricType,
    registry::{Metric, Registry, Unit},
};

/// Metric families that modules have registered, to be written whenever somebody asks for them.
#[derive(Debug, Default)]
pub struct Families(Registry);

impl Families {
    /// None yet. `prefix` and an underscore are put before all their names.
    pub fn with_prefix(prefix: &str) -> Self {
        Self(Registry::with_prefix(prefix))
    }

    /// Where families are registered under their own names.
    pub fn top(&mut self) -> Section<'_> {
        Section(&mut self.0)
    }

    /// Where families are registered that have this prefix and an underscore before their names.
    pub fn section(&mut self, prefix: &str) -> Section<'_> {
        Section(self.0.sub_registry_with_prefix(prefix))
    }

    /// Writes them, in the OpenMetrics format, without its last line ([`write_end`]).
    pub fn write(&self, out: &mut impl fmt::Write) -> fmt::Result {
        text::encode_registry(out, &self.0)
    }

    /// A page of them alone.
    pub fn page(&self) -> Result<String, fmt::Error> {
        let mut page = String::new();
        self.write(&mut page)?;
        write_end(&mut page)?;
        Ok(page)
    }
}

/// Writes the last line of a page.
pub fn write_end(out: &mut impl fmt::Write) -> fmt::Result {
    text::encode_eof(out)
}

/// A part of [`Families`], whose names begin alike.
#[derive(Debug)]
pub struct Section<'a>(&'a mut Registry);

impl Section<'_> {
    /// Adds a family. The format puts `_total` behind a counter's name.
    pub fn register(&mut self, name: impl Into<String>, help: impl Into<String>, metric: impl Metric) {
        self.0.register(name, help, metric);
    }

    /// The same for a family of seconds: the unit is put behind the name.
    pub fn register_seconds(&mut self, name: &str, help: &str, metric: impl Metric) {
        self.0.register_with_unit(name, help, Unit::Seconds, metric);
    }

    /// Adds families that are read when they are asked for.
    pub fn register_collector(&mut self, collector: impl Collector) {
        self.0.register_collector(Box::new(collector));
    }
}

/// Labels of one series.
pub type Labels = Vec<(&'static str, String)>;

/// What a histogram holds at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Histogram {
    /// All that was observed together, in seconds.
    pub sum: f64,
    /// How often something was observed.
    pub count: u64,
    /// Each bucket's upper bound in seconds, and how many are in it and in none before it.
    pub buckets: Vec<(f64, u64)>,
}

impl Histogram {
    /// One whose buckets have these bounds, in seconds, and one more for all above. `counts` has
    /// one more than `bounds`.
    pub fn new(sum: f64, bounds: impl Iterator<Item = f64>, counts: impl Iterator<Item = u64>) -> Self {
        let buckets: Vec<_> = bounds.chain([f64::INFINITY]).zip(counts).collect();
        Self { sum, count: buckets.iter().map(|(_, count)| count).sum(), buckets }
    }
}

/// Writes whole families.
pub struct Writer<'a> {
    /// Where they go.
    pub encoder: DescriptorEncoder<'a>,
}

impl Writer<'_> {
    /// A gauge of one series.
    pub fn gauge(&mut self, name: &str, help: &str, value: &impl EncodeGaugeValue) -> fmt::Result {
        self.encoder.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(value)
    }

    /// A counter of one series. The format puts `_total` behind its name.
    pub fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let mut metric = self.encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        metric.encode_counter::<NoLabelSet, u64, u64>(&value, None)
    }

    /// One row a series of a family.
    fn family<V>(
        &mut self,
        (name, help, unit): (&str, &str, Option<&Unit>),
        kind: MetricType,
        rows: impl IntoIterator<Item = (Labels, V)>,
        write: impl Fn(MetricEncoder<'_>, V) -> fmt::Result,
    ) -> fmt::Result {
        let mut metric = self.encoder.encode_descriptor(name, help, unit, kind)?;
        rows.into_iter().try_for_each(|(labels, value)| write(metric.encode_family(&labels)?, value))
    }

    /// Gauges, a series a row.
    pub fn gauges<V: EncodeGaugeValue>(
        &mut self,
        name: &str,
        help: &str,
        rows: impl IntoIterator<Item = (Labels, V)>,
    ) -> fmt::Result {
        self.family((name, help, None), MetricType::Gauge, rows, |mut metric, value| metric.encode_gauge(&value))
    }

    /// Counters, a series a row.
    pub fn counters(&mut self, name: &str, help: &str, rows: impl IntoIterator<Item = (Labels, u64)>) -> fmt::Result {
        self.family((name, help, None), MetricType::Counter, rows, |mut metric, value| {
            metric.encode_counter::<NoLabelSet, u64, u64>(&value, None)
        })
    }

    /// Counters of seconds: the unit is put behind the name.
    pub fn seconds(&mut self, name: &str, help: &str, rows: impl IntoIterator<Item = (Labels, f64)>) -> fmt::Result {
        self.family((name, help, Some(&Unit::Seconds)), MetricType::Counter, rows, |mut metric, value| {
            metric.encode_counter::<NoLabelSet, f64, u64>(&value, None)
        })
    }

    /// Histograms of seconds, a series a row: the unit is put behind the name.
    pub fn histograms(
        &mut self,
        name: &str,
        help: &str,
        rows: impl IntoIterator<Item = (Labels, Histogram)>,
    ) -> fmt::Result {
        self.family((name, help, Some(&Unit::Seconds)), MetricType::Histogram, rows, |mut metric, value| {
            let Histogram { sum, count, buckets } = value;
            metric.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
        })
    }

    /// Facts that are labels alone, with the value 1, a series a row.
    pub fn infos(&mut self, name: &str, help: &str, rows: impl IntoIterator<Item = Labels>) -> fmt::Result {
        let mut metric = self.encoder.encode_descriptor(name, help, None, MetricType::Info)?;
        rows.into_iter().try_for_each(|labels| metric.encode_info(&labels))
    }
}
