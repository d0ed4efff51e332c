//! A database in a folder: append, query, close.

use strandline::{Db, Labels};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::temp_dir().join("strandline-embed");
    let db = Db::open(&dir)?;
    let now_ms = db.now_ms();
    let series = Labels::from_pairs([("__name__", "requests_total"), ("job", "shop")]);
    let mut batch = db.batch();
    for i in 0..=60 {
        batch.sample(&series, now_ms - (60 - i) * 1_000, (10 * i) as f64);
    }
    batch.commit()?.all()?;
    let result = db.query("rate(requests_total[1m])", now_ms)?;
    eprintln!("{:?}", result.value);
    db.close()?;
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}
