"""One of two processes that count the same thing under the same name, without an instance."""
import sys, time

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource

endpoint, instance = sys.argv[1:]
attributes = {"service.name": "twins", **({"service.instance.id": instance} if instance else {})}
reader = PeriodicExportingMetricReader(OTLPMetricExporter(endpoint=endpoint + "/v1/metrics"), export_interval_millis=3_600_000)
provider = MeterProvider(resource=Resource(attributes), metric_readers=[reader])
counter = provider.get_meter("twins").create_counter("visits")
counter.add(1)
# Its start is taken: a second process that starts from here on has another one, were they ever so alike.
print("counting", flush=True)
# Exports when told to, so that the two take turns.
for line in sys.stdin:
    counter.add(1)
    print("sent" if provider.force_flush() else "failed", flush=True)
provider.shutdown()
