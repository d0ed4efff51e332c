//! Metrics as requests of the protocols they come by.

use crate::metrics::Series;
use crate::wire::Message;

/// A `prometheus.WriteRequest` (remote write 1.0) with one sample of each series.
pub fn remote_write_v1(series: &[Series], t_ms: i64) -> Vec<u8> {
    let mut out = Message::default();
    for s in series {
        out.message(1, |ts| {
            for (name, value) in &s.labels {
                ts.message(1, |l| {
                    l.bytes(1, name.as_bytes());
                    l.bytes(2, value.as_bytes());
                });
            }
            ts.message(2, |x| {
                x.fixed64(1, s.value.to_bits());
                x.int(2, t_ms as u64);
            });
        });
    }
    out.0
}

/// The same as `io.prometheus.write.v2.Request`.
pub fn remote_write_v2(series: &[Series], t_ms: i64) -> Vec<u8> {
    let mut symbols = vec![String::new()];
    let mut number = |s: &str| {
        let known = symbols.iter().position(|k| k == s);
        known.unwrap_or_else(|| {
            symbols.push(s.to_owned());
            symbols.len() - 1
        }) as u64
    };
    let mut body = Message::default();
    for s in series {
        let refs: Vec<u64> = s.labels.iter().flat_map(|(n, v)| [number(n), number(v)]).collect();
        body.message(5, |ts| {
            let mut packed = Vec::new();
            for mut r in refs {
                while r >= 0x80 {
                    packed.push(r as u8 | 0x80);
                    r >>= 7;
                }
                packed.push(r as u8);
            }
            ts.bytes(1, &packed);
            ts.message(2, |x| {
                x.fixed64(1, s.value.to_bits());
                x.int(2, t_ms as u64);
            });
        });
    }
    let mut out = Message::default();
    for s in &symbols {
        out.bytes(4, s.as_bytes());
    }
    out.0.extend_from_slice(&body.0);
    out.0
}

/// An `ExportMetricsServiceRequest`: each series a gauge's point with its labels as attributes.
pub fn otlp(series: &[Series], t_ms: i64) -> Vec<u8> {
    let mut out = Message::default();
    out.message(1, |rm| {
        rm.message(1, |r| {
            r.message(1, |kv| {
                kv.bytes(1, b"service.name");
                kv.message(2, |v| v.bytes(1, b"fleet"));
            });
        });
        rm.message(2, |sm| {
            for s in series {
                sm.message(2, |m| {
                    let name = s.labels.iter().find(|l| l.0 == "__name__").map_or("m", |l| &l.1);
                    m.bytes(1, name.as_bytes());
                    m.message(5, |g| {
                        g.message(1, |p| {
                            p.fixed64(3, t_ms as u64 * 1_000_000);
                            p.fixed64(4, s.value.to_bits());
                            for (k, v) in s.labels.iter().filter(|l| l.0 != "__name__") {
                                p.message(7, |kv| {
                                    kv.bytes(1, k.as_bytes());
                                    kv.message(2, |x| x.bytes(1, v.as_bytes()));
                                });
                            }
                        });
                    });
                });
            }
        });
    });
    out.0
}
