//! PromQL over data of one's own: a source that computes its samples instead of storing them.
//!
//! `cargo run -p strandline-query --example own_source -- 'max by (room) (temperature)'`

use strandline_query::promql::{Engine, QueryOptions, Value};
use strandline_storage::Result;
use strandline_storage::model::{Labels, Matcher, MetricMetadata, TimeRange};
use strandline_storage::read::{ExemplarSeries, LabelQuery, SampleBuf, SelectRequest, SeriesSelection, SeriesSource, Warnings};

/// Rooms whose temperature follows the hour.
struct House;

const ROOMS: [(&str, &str); 3] = [("kitchen", "ground"), ("study", "first"), ("bedroom", "first")];

fn series() -> Vec<Labels> {
    ROOMS.iter().map(|(room, floor)| Labels::from_pairs([("__name__", "temperature"), ("room", room), ("floor", floor)])).collect()
}

impl SeriesSource for House {
    fn select(&self, request: &SelectRequest) -> Result<Box<dyn SeriesSelection>> {
        let passes = |l: &Labels| request.matchers.iter().all(|m| m.matches(l.value(&m.name)));
        let chosen = series().into_iter().enumerate().filter(|(_, l)| passes(l)).collect();
        Ok(Box::new(Rooms(chosen)))
    }

    fn label_names(&self, _: &LabelQuery) -> Result<(Vec<String>, Warnings)> {
        Ok((["__name__", "floor", "room"].map(str::to_owned).to_vec(), Warnings::new()))
    }

    fn label_values(&self, name: &str, _: &LabelQuery) -> Result<(Vec<String>, Warnings)> {
        let mut values: Vec<String> = series().iter().filter_map(|l| l.get(name).map(str::to_owned)).collect();
        values.sort();
        values.dedup();
        Ok((values, Warnings::new()))
    }

    fn exemplars(&self, _: &[Vec<Matcher>], _: TimeRange) -> Result<Vec<ExemplarSeries>> {
        Ok(Vec::new())
    }

    fn metadata(&self, _: Option<&str>) -> Result<Vec<(String, Vec<MetricMetadata>)>> {
        Ok(Vec::new())
    }
}

struct Rooms(Vec<(usize, Labels)>);

impl SeriesSelection for Rooms {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn labels(&self, i: usize) -> Labels {
        self.0[i].1.clone()
    }

    /// A sample every minute.
    fn read(&self, i: usize, range: TimeRange, out: &mut SampleBuf) -> Result<()> {
        out.clear();
        let room = self.0[i].0 as f64;
        let first = range.min_ms.div_euclid(60_000) + i64::from(range.min_ms.rem_euclid(60_000) != 0);
        for minute in first..=range.max_ms.div_euclid(60_000) {
            let hour = (minute % 1440) as f64 / 60.0;
            out.push(minute * 60_000, 18.0 + room + 3.0 * ((hour - 9.0) / 24.0 * std::f64::consts::TAU).sin(), 0);
        }
        Ok(())
    }
}

#[allow(clippy::print_stdout)]
fn main() {
    let query = std::env::args().nth(1).unwrap_or_else(|| "max by (floor) (avg_over_time(temperature[1h]))".into());
    let day = 20_000 * 86_400_000i64;
    match Engine::default().range(&House, &query, day, day + 86_400_000, 3 * 3_600_000, &QueryOptions::default()) {
        Err(e) => println!("{e}"),
        Ok(answer) => {
            if let Value::Matrix(series) = &answer.value {
                for s in series {
                    let values: Vec<String> = s
                        .samples()
                        .map(|(t, v)| match v {
                            strandline_query::promql::SampleRef::Float(v) => format!("{:02}h {v:.1}", (t - day) / 3_600_000),
                            strandline_query::promql::SampleRef::Histogram(h) => format!("{h:?}"),
                        })
                        .collect();
                    println!("{} {}", s.labels, values.join(", "));
                }
            }
            answer.warnings.iter().chain(&answer.infos).for_each(|n| println!("{n}"));
        }
    }
}
