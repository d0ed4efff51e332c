"""A program instrumented with the stock OpenTelemetry SDK, unchanged but for the endpoint."""
import json, sys, time

from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.trace import Link, SpanKind, Status, StatusCode


def exporters(protocol, endpoint, gzip):
    if protocol == "grpc":
        from grpc import Compression
        from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
        c = Compression.Gzip if gzip else Compression.NoCompression
        return OTLPSpanExporter(endpoint=endpoint, insecure=True, compression=c), OTLPMetricExporter(endpoint=endpoint, insecure=True, compression=c)
    from opentelemetry.exporter.otlp.proto.http import Compression
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    c = Compression.Gzip if gzip else Compression.NoCompression
    return (OTLPSpanExporter(endpoint=endpoint + "/v1/traces", compression=c),
            OTLPMetricExporter(endpoint=endpoint + "/v1/metrics", compression=c))


def main(protocol, endpoint, service, gzip):
    spans, metrics = exporters(protocol, endpoint, gzip == "gzip")
    resource = Resource.create({"service.name": service, "service.namespace": "shop", "service.instance.id": service + "-1", "team": "core"})
    tp = TracerProvider(resource=resource)
    tp.add_span_processor(SimpleSpanProcessor(spans))
    reader = PeriodicExportingMetricReader(metrics, export_interval_millis=3_600_000)
    mp = MeterProvider(resource=resource, metric_readers=[reader])
    meter, tracer = mp.get_meter("interop", "1.0"), tp.get_tracer("interop", "1.0", attributes={"scope.attr": 1})
    counter = meter.create_counter("app.requests", unit="{request}")
    gauge = meter.create_gauge("app.temperature", unit="Cel")
    hist = meter.create_histogram("app.latency", unit="s")
    for i in range(6):
        counter.add(10, {"http.route": "/x"})
        gauge.set(20.5 + i, {"room": "a"})
        hist.record(0.1 * i, {"http.route": "/x"})
        mp.force_flush()
        time.sleep(0.4)
    with tracer.start_as_current_span("root", kind=SpanKind.SERVER) as root:
        root.set_attributes({"http.route": "/x", "count": 7, "ratio": 0.5, "ok": True, "list": ["a", "b"], "ints": [1, 2], "floats": [1.5], "bools": [True, False]})
        root.add_event("happened", {"detail": "yes", "n": 3})
        other = trace.SpanContext(0x1234, 0x5678, True)
        with tracer.start_as_current_span("child", kind=SpanKind.CLIENT, links=[Link(other, {"why": "linked"})]) as child:
            child.set_status(Status(StatusCode.ERROR, "broken"))
            child.record_exception(ValueError("bad"))
        ctx = root.get_span_context()
    tp.shutdown()
    mp.shutdown()
    print(json.dumps({"trace_id": f"{ctx.trace_id:032x}", "span_id": f"{ctx.span_id:016x}"}))


main(*sys.argv[1:])
