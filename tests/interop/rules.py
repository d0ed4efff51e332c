"""Programs with rules that only know Prometheus' API: who wants rules in files runs one beside Strandline. VictoriaMetrics' agent and
alerter, and a Prometheus 3 in front."""
import http.server, json, os, subprocess, threading, time

import rw
from beside import Prometheus3, samples
from harness import ROOT, Server, free_port

RULES = """
groups:
- name: watch
  interval: 1s
  rules:
  - {record: "job:up:sum", expr: "sum by (job) (up)"}
  - {alert: Up, expr: "job:up:sum == 1", for: 2s, labels: {severity: page}, annotations: {summary: "{{ $labels.job }} is at {{ $value }}"}}
"""


class Alertmanager(http.server.BaseHTTPRequestHandler):
    told = []

    def do_POST(self):
        Alertmanager.told += json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass


def run(name, *flags):
    log = os.path.join(ROOT, f"{name}.log")
    return subprocess.Popen([name, f"-httpListenAddr=127.0.0.1:{free_port()}", *flags], stderr=open(log, "ab"), stdout=subprocess.DEVNULL), log


def until(what, seconds=30):
    end = time.time() + seconds
    while time.time() < end:
        got = what()
        if got:
            return got
        time.sleep(0.1)
    raise AssertionError("it did not come to be")


def rules_by_vmalert():
    """vmagent scrapes and writes; vmalert asks, writes what it records, tells of alerts, and reads their state back after a restart."""
    s = Server("rules").start()
    scrape, rules = os.path.join(ROOT, "vmagent.yml"), os.path.join(ROOT, "vmalert.yml")
    open(scrape, "w").write(f"scrape_configs: [{{job_name: self, scrape_interval: 1s, static_configs: [{{targets: ['127.0.0.1:{s.http}']}}]}}]\n")
    open(rules, "w").write(RULES)
    manager = http.server.HTTPServer(("127.0.0.1", 0), Alertmanager)
    threading.Thread(target=manager.serve_forever, daemon=True).start()
    agent, agent_log = run("vmagent", f"-promscrape.config={scrape}", f"-remoteWrite.url={s.url}/api/v1/write", "-remoteWrite.flushInterval=1s",
                           f"-remoteWrite.tmpDataPath={ROOT}/vmagent")
    flags = [f"-rule={rules}", f"-datasource.url={s.url}", f"-remoteWrite.url={s.url}", f"-remoteRead.url={s.url}", "-remoteWrite.flushInterval=1s",
             f"-notifier.url=http://127.0.0.1:{manager.server_port}"]
    alert, alert_log = run("vmalert", *flags)
    since = until(lambda: [v for r in s.query('ALERTS{alertstate="firing",alertname="Up"}') for v in s.query("ALERTS_FOR_STATE")])[0]["value"][1]
    assert s.value('job:up:sum{job="self"}') == 1
    until(lambda: any(a["annotations"]["summary"] == "self is at 1" for a in Alertmanager.told))
    alert.terminate()
    alert.wait(20)
    alert, alert_log = run("vmalert", *flags)
    until(lambda: "restored to state at" in open(alert_log).read())
    for p in (alert, agent):
        p.terminate()
        p.wait(20)
    assert s.value('last_over_time(ALERTS_FOR_STATE[1h])') == float(since)
    for log in (alert_log, agent_log):
        assert "\terror\t" not in open(log).read(), open(log).read()
    manager.shutdown()
    s.stop()


FRONT_RULES = """
groups:
- name: watch
  interval: 1s
  rules:
  - {record: "orders:rate", expr: 'sum by (job, shop) (rate(orders_total{via="read"}[5m]))'}
  - {record: "took:median", expr: 'histogram_quantile(0.5, sum(rate(took{via="read"}[5m])))'}
  - {alert: Orders, expr: 'orders:rate > 0', labels: {severity: page}}
"""


def prometheus_in_front():
    """A Prometheus 3 has rules over ours by remote read, and writes what they record back; it federates ours, native histograms
    too, and another of ours federates it."""
    s = Server("front").start()
    now_ms = int(time.time() * 1000)
    times = range(now_ms - 600_000, now_ms + 1, 10_000)
    for via in ("read", "fed"):
        labels = {"via": via, "job": "shop", "shop": 'é"\\\n{}'}
        took = lambda k: dict(count=3 * k, sum=1.5 * k, schema=0, zero=k, threshold=0.001, positive=([(0, 2)], [k, 0]))
        series = [{"labels": {"__name__": "orders_total", **labels}, "samples": [(t, float(k * k)) for k, t in enumerate(times)]},
                  {"labels": {"__name__": "took", **labels}, "histograms": [{**took(k), "t": t} for k, t in enumerate(times)]}]
        assert rw.post(s, rw.v1(series)).status_code == 204
    rules = os.path.join(ROOT, "front-rules.yml")
    open(rules, "w").write(FRONT_RULES)
    p = Prometheus3("front-prom", json.dumps({
        "rule_files": [rules],
        "scrape_configs": [{"job_name": "federate", "honor_labels": True, "metrics_path": "/federate", "params": {"match[]": ['{via="fed"}']},
                            "scrape_interval": "1s", "scrape_timeout": "1s", "static_configs": [{"targets": [f"127.0.0.1:{s.http}"]}]}],
        "remote_read": [{"url": s.url + "/api/v1/read", "read_recent": True, "required_matchers": {"via": "read"}}],
        "remote_write": [{"url": s.url + "/api/v1/write", "protobuf_message": "io.prometheus.write.v2.Request", "queue_config": {"batch_send_deadline": "1s"},
                          "write_relabel_configs": [{"source_labels": ["__name__"], "regex": "ALERTS|.*:.*", "action": "keep"}]}]})).start()
    until(lambda: all(s.query(q) for q in ("orders:rate", "took:median", 'ALERTS{alertname="Orders",alertstate="firing",severity="page"}')))
    for name, q in (("orders:rate", 'sum by (job, shop) (rate(orders_total{via="read"}[5m]))'), ("took:median", 'histogram_quantile(0.5, sum(rate(took{via="read"}[5m])))')):
        for recorded in samples(s, name, time.time()).values():
            for t, v in recorded.items():
                assert abs(s.value(q, t) - float(v)) <= 1e-9 * float(v), (name, t, v, s.value(q, t))
    taken = until(lambda: samples(p, '{via="fed"}', time.time()))
    ours = samples(s, '{via="fed"}', time.time())
    assert len(taken) == 2 and taken == {k: {t: v for t, v in ours[k].items() if t in taken[k]} for k in ours}, (taken, ours)
    conf = os.path.join(ROOT, "front.toml")
    open(conf, "w").write(f"""version = 1
[[scrape]]
job = "federate"
targets = ["127.0.0.1:{p.port}"]
path = "/federate?match[]=orders:rate"
honor_labels = true
interval = "1s"
timeout = "1s"
""")
    back = Server("front-back", "--config", conf).start()
    until(lambda: samples(back, "orders:rate", time.time()))
    there = samples(p, "orders:rate", time.time())
    assert all(there[k].items() >= v.items() for k, v in samples(back, "orders:rate", time.time()).items()), there
    assert "WARN" not in back.text() + s.text(), back.text() + s.text()
    p.stop()
    for x in (s, back):
        x.stop()


CHECKS = [rules_by_vmalert, prometheus_in_front]
