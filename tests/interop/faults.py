"""A disk that fails beneath the real process, a clock that leaps, a block that is lost."""
import errno, glob, os, shutil, subprocess, time

import requests

from harness import BIN, ROOT, Server
from load import Load

FAKETIME = glob.glob("/usr/lib/*/faketime/libfaketimeMT.so.1")


def metric(s, name):
    page = requests.get(s.url + "/metrics", timeout=10).text
    return sum(float(line.rsplit(" ", 1)[1]) for line in page.splitlines() if line.startswith((name + " ", name + "{")))


def bad_disk():
    """The shim, compiled once."""
    made = os.path.join(ROOT, "bad_disk.so")
    if not os.path.exists(made):
        source = os.path.join(os.path.dirname(os.path.abspath(__file__)), "clients", "bad_disk.c")
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", made, source, "-ldl"], check=True)
    return made


def waits(what, done, server, patience_s=60):
    until = time.time() + patience_s
    while not done():
        assert time.time() < until, (what, server.text()[-3000:])
        time.sleep(0.1)


def disk_faults():
    """EIO and ENOSPC beneath the real process: nothing acknowledged is lost, and it goes on by itself."""
    orders = os.path.join(ROOT, "bad-disk.orders")
    data = os.path.join(ROOT, "bad-disk")
    s = Server("bad-disk", data=data, env={"LD_PRELOAD": bad_disk(), "BAD_DISK": data, "BAD_DISK_ORDERS": orders}).start()
    load = Load("bad-disk", s, "--rate", "30", "--interval-ms", "100", "--duration", "24s", "--drain", "90s").start()

    def fail(call, error, times=0):
        with open(orders + ".new", "w") as f:
            f.write(f"{call} {error} {times}\n")
        os.rename(orders + ".new", orders)

    def taking():
        before = metric(s, "strandline_samples_ingested_total")
        waits("samples are taken again", lambda: metric(s, "strandline_samples_ingested_total") > before, s)

    def said():
        return metric(s, "strandline_disk_refuses_writes")

    try:
        taking()
        fail("sync", errno.EIO, 1)
        waits("an fsync fails once", lambda: not os.path.exists(orders), s)
        taking()
        for call, error in [("write", errno.EIO), ("write", errno.ENOSPC), ("sync", errno.EIO)]:
            failures = metric(s, "strandline_metric_wal_failures_total")
            fail(call, error)
            waits("commits fail", lambda: metric(s, "strandline_metric_wal_failures_total") > failures, s)
            waits("it is said", said, s)
            assert requests.post(s.url + "/api/v1/admin/flush", timeout=60).status_code == 503
            # Queries go on.
            s.query("count(up) or vector(1)")
            os.unlink(orders)
            taking()
            waits("it is said no more", lambda: not said(), s)
        # A manifest that can't be put in its place, and one of whose place nobody can be sure.
        for call in ["rename", "sync"]:
            fail(call, errno.EIO)
            r = requests.post(s.url + "/api/v1/admin/flush", timeout=60)
            assert r.status_code == 503, (call, r.status_code, r.text)
            os.unlink(orders)
            taking()
            s.flush(30)
        report = load.wait(200)
        assert report["requests"]["refused"] == 0 and report["rejected_items"] == 0, report
        load.verify()
        s.kill()
        s.start()
        load.verify()
        s.stop()
    finally:
        if os.path.exists(orders):
            os.unlink(orders)


def clock_leaps():
    """The server's clock leaps by days and back, a flush in between: nothing is refused, lost or begun anew."""
    assert FAKETIME, "libfaketime is missing"
    for by in ["+3d", "-1d"]:
        name = "leap" + by
        offset = os.path.join(ROOT, name + ".offset")

        def leap(to):
            with open(offset + ".new", "w") as f:
                f.write(to + "\n")
            os.rename(offset + ".new", offset)

        leap("+0")
        env = {"LD_PRELOAD": FAKETIME[0], "FAKETIME_TIMESTAMP_FILE": offset, "FAKETIME_NO_CACHE": "1", "DONT_FAKE_MONOTONIC": "1"}
        s = Server(name, env=env).start()
        load = Load(name, s, "--rate", "20", "--interval-ms", "200", "--duration", "9s").start()
        waits("samples are taken", lambda: metric(s, "strandline_samples_ingested_total") > 0, s)
        leap(by)
        waits("the leap is noticed", lambda: metric(s, "strandline_clock_in_doubt") == 1, s)
        s.flush()
        before = metric(s, "strandline_samples_ingested_total")
        waits("samples are taken", lambda: metric(s, "strandline_samples_ingested_total") > before + 1000, s)
        s.flush()
        leap("+0")
        waits("it is as before", lambda: metric(s, "strandline_clock_in_doubt") == 0, s)
        report = load.wait()
        assert report["rejected_items"] == 0 and report["requests"]["refused"] == 0, report
        load.verify()
        s.kill()
        s.start()
        load.verify()
        s.stop()


def put_span(s, n):
    now = time.time_ns()
    span = {"traceId": f"{n:032x}", "spanId": f"{n:016x}", "name": "work", "startTimeUnixNano": str(now), "endTimeUnixNano": str(now + 1000)}
    r = requests.post(f"http://127.0.0.1:{s.otlp}/v1/traces", json={"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]})
    assert r.status_code == 200, r.text


def blocks(command, s, *more):
    return subprocess.run([BIN, "blocks", command, *more, "--data-dir", s.dir], capture_output=True, text=True)


def lost_block():
    """A block that is gone before the bucket had it: said until somebody accepts the loss. Blocks of spans are compacted by hand."""
    s = Server("lost-block", env={"STRANDLINE_COMPACTION_ENABLED": "false"}).start()
    for n in range(1, 7):
        put_span(s, n)
        s.flush()
    s.stop()
    assert len(blocks("list", s).stdout.splitlines()) == 6
    out = blocks("compact", s)
    assert out.returncode == 0 and out.stdout == "1 compactions\n", (out.stdout, out.stderr)
    assert len(blocks("list", s).stdout.splitlines()) == 1
    # Where the bucket should take it, something is in the way.
    way = os.path.join(s.dir, "bucket", "traces")
    os.rename(way, way + ".away")
    s.start()
    open(way, "w").close()
    put_span(s, 7)
    assert requests.post(s.url + "/api/v1/admin/flush", timeout=60).status_code == 503
    s.stop()
    os.unlink(way)
    os.rename(way + ".away", way)
    [staged] = [n for n in os.listdir(os.path.join(s.dir, "traces")) if os.path.isdir(os.path.join(s.dir, "traces", n))]
    shutil.rmtree(os.path.join(s.dir, "traces", staged))
    s.start()
    trace = s.url + f"/api/traces/{1:032x}"
    r = requests.get(trace)
    assert r.status_code == 500 and staged in r.text, r.text
    out = blocks("verify", s)
    assert out.returncode == 1 and staged in out.stdout and "give-up" in out.stderr, (out.stdout, out.stderr)
    assert "in use" in blocks("give-up", s, staged).stderr
    s.stop()
    out = blocks("give-up", s, staged)
    assert out.returncode == 0, out.stderr
    s.start()
    assert requests.get(trace).status_code == 200
    assert blocks("verify", s).returncode == 0
    s.stop()


CHECKS = [disk_faults, clock_leaps, lost_block]
