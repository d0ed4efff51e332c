"""VictoriaMetrics' agent and alerter, as programs that only know Prometheus' API: who wants rules in files runs one beside Strandline."""
import http.server, json, os, subprocess, threading, time

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


CHECKS = [rules_by_vmalert]
