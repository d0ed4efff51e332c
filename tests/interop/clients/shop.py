"""A program that knows of OpenTelemetry's API alone; `opentelemetry-instrument` sets up the rest, logs too."""
import json, logging

from opentelemetry import metrics, trace

orders = metrics.get_meter("shop").create_counter("orders")
tracer = trace.get_tracer("shop")
for _ in range(5):
    with tracer.start_as_current_span("checkout") as root:
        root.set_attribute("http.route", "/cart")
        with tracer.start_as_current_span("pay"):
            logging.getLogger("shop").warning("a log line of the program")
        orders.add(2, {"http.route": "/cart"})
print(json.dumps({"trace_id": f"{root.get_span_context().trace_id:032x}"}))
