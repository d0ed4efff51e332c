"""Counts in delta temporality for some seconds, exporting often: how much was counted is told at the end."""
import json, sys, time

from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics import Counter, Histogram, MeterProvider
from opentelemetry.sdk.metrics.export import AggregationTemporality, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource

endpoint, seconds = sys.argv[1], float(sys.argv[2])
deltas = {Counter: AggregationTemporality.DELTA, Histogram: AggregationTemporality.DELTA}
exporter = OTLPMetricExporter(endpoint=endpoint, insecure=True, preferred_temporality=deltas)
resource = Resource.create({"service.name": "increases", "service.instance.id": "1"})
provider = MeterProvider([PeriodicExportingMetricReader(exporter, export_interval_millis=100)], resource=resource)
orders, took = provider.get_meter("m").create_counter("orders"), provider.get_meter("m").create_histogram("took", unit="s")
n, until = 0, time.time() + seconds
while time.time() < until:
    orders.add(1)
    took.record(0.5)
    n += 1
    time.sleep(0.01)
provider.shutdown()
print(json.dumps({"counted": n}))
