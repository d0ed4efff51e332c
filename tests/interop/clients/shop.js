// A program with the stock Node SDK, set up by the environment alone.
const { NodeSDK } = require("@opentelemetry/sdk-node");
const { metrics, trace } = require("@opentelemetry/api");

const sdk = new NodeSDK();
sdk.start();

async function main() {
  const orders = metrics.getMeter("shop").createCounter("orders");
  const tracer = trace.getTracer("shop");
  let id;
  for (let i = 0; i < 5; i++) {
    tracer.startActiveSpan("checkout", (root) => {
      root.setAttribute("http.route", "/cart");
      tracer.startActiveSpan("pay", (child) => child.end());
      id = root.spanContext().traceId;
      root.end();
    });
    orders.add(2, { "http.route": "/cart" });
  }
  await sdk.shutdown();
  console.log(JSON.stringify({ trace_id: id }));
}

main();
