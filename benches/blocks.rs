//! Metric blocks: written by flush and merge, read from the disk and from a far bucket.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Fleet, T0, World};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use strandline::storage::Engine;
use strandline::storage::model::{MatchOp, Matcher, TimeRange};
use strandline::storage::read::{SampleBuf, SelectRequest, SeriesSource};

const HOSTS: usize = 50;
const SCRAPES: u64 = 120;
const SAMPLES: u64 = HOSTS as u64 * 100 * SCRAPES;

fn filled(w: &World, fleet: &mut Fleet, scrapes: u64) -> Engine {
    let e = w.open();
    for _ in 0..scrapes {
        e.metrics().append(&fleet.next_scrape()).unwrap().commit.wait().unwrap();
    }
    e
}

fn written(c: &mut Criterion) {
    let mut g = c.benchmark_group("blocks");
    g.sample_size(10);
    g.throughput(Throughput::Elements(SAMPLES));
    let head = || filled(&World::new(T0 + 7_200_000), &mut Fleet::new(HOSTS), SCRAPES);
    g.bench_function("flush", |b| b.iter_batched_ref(head, |e| e.metrics().flush().unwrap(), BatchSize::PerIteration));
    let four = || {
        let w = World::new(T0 + 7_200_000);
        let mut fleet = Fleet::new(HOSTS);
        let e = filled(&w, &mut fleet, SCRAPES / 4);
        e.metrics().flush().unwrap();
        for _ in 1..4 {
            for _ in 0..SCRAPES / 4 {
                e.metrics().append(&fleet.next_scrape()).unwrap().commit.wait().unwrap();
            }
            e.metrics().flush().unwrap();
        }
        e
    };
    let merge = |e: &mut Engine| assert_eq!(e.metrics().compact(1).unwrap(), 1);
    g.bench_function("merge_four", |b| b.iter_batched_ref(four, merge, BatchSize::PerIteration));
    g.finish();
}

fn read(c: &mut Criterion) {
    let mut g = c.benchmark_group("blocks");
    g.sample_size(20);
    g.throughput(Throughput::Elements(SAMPLES));
    let w = World::new(T0 + 7_200_000);
    let e = filled(&w, &mut Fleet::new(HOSTS), SCRAPES);
    e.metrics().flush().unwrap();
    e.metrics().upload().unwrap();
    let request = SelectRequest::new(vec![Matcher::new(MatchOp::Regex, "__name__", ".+").unwrap()], TimeRange::all());
    let run = |e: &Engine| {
        let selection = e.metrics().select(&request).unwrap();
        let (mut buf, mut n) = (SampleBuf::default(), 0);
        for i in 0..selection.len() {
            buf.clear();
            selection.read(i, TimeRange::all(), &mut buf).unwrap();
            n += buf.len() as u64;
        }
        assert_eq!(n, SAMPLES);
    };
    g.bench_function("read_local", |b| b.iter(|| run(&e)));
    let far = || World { clock: w.clock.clone(), bucket: w.bucket.clone(), ..World::new(T0) }.open();
    g.bench_function("read_far_cold", |b| b.iter_batched_ref(far, |e| run(e), BatchSize::PerIteration));
    let warm = far();
    g.bench_function("read_far_warm", |b| b.iter(|| run(&warm)));
    g.finish();
}

criterion_group!(benches, written, read);
criterion_main!(benches);
