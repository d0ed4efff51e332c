"""A clock that leaps while the workload runs."""
import glob, os, time

import requests

from harness import ROOT, Server
from load import Load

FAKETIME = glob.glob("/usr/lib/*/faketime/libfaketimeMT.so.1")


def metric(s, name):
    page = requests.get(s.url + "/metrics", timeout=10).text
    return sum(float(line.rsplit(" ", 1)[1]) for line in page.splitlines() if line.startswith((name + " ", name + "{")))


def waits(what, done, server, patience_s=60):
    until = time.time() + patience_s
    while not done():
        assert time.time() < until, (what, server.text()[-3000:])
        time.sleep(0.1)


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


CHECKS = [clock_leaps]
