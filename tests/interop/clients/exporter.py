"""A page of prometheus_client's, with what its formats differ in."""
import sys

from prometheus_client import Counter, Gauge, Histogram, Info, Summary, start_http_server

orders = Counter("orders", "orders \\ \"taken\"\nhere", ["path"])
orders.labels('a,b="c" # \\ é\n').inc(7, {"trace_id": "0af7651916cd43dd8448eb211c80319c"})
took = Histogram("took_seconds", "time", buckets=(1, 2.5))
took.observe(2, {"trace_id": "0af7651916cd43dd8448eb211c80319c"})
Summary("waited", "time").observe(3)
Gauge("oven.heat", "a name beyond the classic alphabet").set(-2.5)
Info("build", "build").info({"version": "1.2"})
server, thread = start_http_server(int(sys.argv[1]), addr="127.0.0.1")
print("listening", flush=True)
thread.join()
