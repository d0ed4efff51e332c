// A program with Deno's built-in telemetry: a web server and its client, set up by the environment alone.
import { metrics, trace } from "@opentelemetry/api";

const orders = metrics.getMeter("shop").createCounter("orders");
const tracer = trace.getTracer("shop");
const server = Deno.serve({ port: 0, hostname: "127.0.0.1", onListen() {} }, () => new Response("ok"));
let id;
for (let i = 0; i < 5; i++) {
  await tracer.startActiveSpan("checkout", async (root) => {
    root.setAttribute("http.route", "/cart");
    id = root.spanContext().traceId;
    await (await fetch(`http://127.0.0.1:${server.addr.port}/cart`)).text();
    root.end();
  });
  orders.add(2, { "http.route": "/cart" });
}
console.log("a log line of the program");
await server.shutdown();
console.log(JSON.stringify({ trace_id: id }));
