//! The log: commits alone and in groups, and replay.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;
use std::sync::Arc;

use common::{T0, World};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use strandline_wal::fs::Fs;
use strandline_wal::{Wal, WalOptions};

const RECORD: [u8; 1000] = [7; 1000];
const RECORDS: u64 = 1000;

fn commit(c: &mut Criterion) {
    let mut g = c.benchmark_group("wal");
    g.throughput(Throughput::Elements(RECORDS));
    let fresh = || World::new(T0).wal();
    g.bench_function("commit_each", |b| {
        b.iter_batched(fresh, |wal| (0..RECORDS).for_each(|_| wal.append(&RECORD).unwrap().wait().unwrap()), BatchSize::LargeInput);
    });
    g.bench_function("commit_together", |b| {
        let run = |wal: Wal| {
            for _ in 0..RECORDS {
                drop(wal.append(&RECORD).unwrap());
            }
            wal.commit().unwrap();
        };
        b.iter_batched(fresh, run, BatchSize::LargeInput);
    });
    let w = World::new(T0);
    let wal = w.wal();
    (0..RECORDS).for_each(|_| wal.append(&RECORD).unwrap().wait().unwrap());
    wal.close().unwrap();
    let fs: Arc<dyn Fs> = Arc::new(w.fs.clone());
    g.bench_function("replay", |b| {
        b.iter(|| {
            let mut bytes = 0;
            let options = WalOptions { background: false, ..WalOptions::default() };
            let replay = &mut |_, r: &[u8]| {
                bytes += r.len();
                Ok(())
            };
            Wal::open(fs.clone(), Path::new("/log"), options, replay).unwrap().0.close().unwrap();
            assert_eq!(bytes, RECORD.len() * RECORDS as usize);
        });
    });
    g.finish();
}

criterion_group!(benches, commit);
criterion_main!(benches);
