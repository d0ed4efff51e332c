//! The six services and what they ask of one another. Plain tables: traffic is a walk over them.

/// A service of the workload.
pub struct Service {
    /// `service.name`.
    pub name: &'static str,
    /// Sends by gRPC, otherwise by HTTP.
    pub grpc: bool,
    /// Packs its requests by gzip.
    pub gzip: bool,
}

/// Indices of [`SERVICES`].
pub const GATEWAY: usize = 0;
const ORCHESTRATOR: usize = 1;
const RECORDS: usize = 2;
const PLATFORM: usize = 3;
const AUTOMATION: usize = 4;
const TOOLS: usize = 5;

/// Who takes part.
pub const SERVICES: [Service; 6] = [
    Service { name: "gateway", grpc: true, gzip: false },
    Service { name: "llm-orchestrator", grpc: false, gzip: false },
    Service { name: "record-gateway", grpc: true, gzip: true },
    Service { name: "platform", grpc: false, gzip: false },
    Service { name: "automation", grpc: false, gzip: true },
    Service { name: "tool-server", grpc: true, gzip: false },
];

/// What an operation does on its way, once in so many times.
pub enum Call {
    /// Asks another service: an index of [`OPERATIONS`].
    Http(usize, u64),
    /// Asks a database: an index of [`QUERIES`].
    Db(usize, u64),
    /// Asks a language model: an index of [`MODELS`].
    Model(usize, u64),
}

/// Something a service serves.
pub struct Operation {
    /// Whose: an index of [`SERVICES`].
    pub service: usize,
    /// `http.request.method`; empty for a job taken from a queue.
    pub method: &'static str,
    /// `http.route`, or the queue's name.
    pub route: &'static str,
    /// The span's name.
    pub name: &'static str,
    /// Time spent in it beside its calls, typically.
    pub own_us: u64,
    /// What it asks of others, one after another.
    pub calls: &'static [Call],
}

use Call::{Db, Http, Model};

const ORCHESTRATE: usize = 1;
const READ_RECORD: usize = 2;
const WRITE_RECORD: usize = 3;
const TENANT: usize = 4;
const TOOL: usize = 5;
const RUN_AUTOMATION: usize = 7;

/// Everything that is served. Calls only lead to what asks less, so walks end.
pub const OPERATIONS: [Operation; 10] = [
    Operation {
        service: GATEWAY,
        method: "POST",
        route: "/v1/chat",
        name: "POST /v1/chat",
        own_us: 900,
        calls: &[Http(TENANT, 4), Http(ORCHESTRATE, 1)],
    },
    Operation {
        service: ORCHESTRATOR,
        method: "POST",
        route: "/orchestrate",
        name: "POST /orchestrate",
        own_us: 2_500,
        calls: &[Http(READ_RECORD, 1), Model(0, 1), Http(TOOL, 2), Model(1, 3), Http(WRITE_RECORD, 2)],
    },
    Operation {
        service: RECORDS,
        method: "GET",
        route: "/records/{id}",
        name: "GET /records/{id}",
        own_us: 600,
        calls: &[Db(0, 1), Db(1, 1)],
    },
    Operation { service: RECORDS, method: "POST", route: "/records", name: "POST /records", own_us: 1_100, calls: &[Db(2, 1), Db(0, 3)] },
    Operation { service: PLATFORM, method: "GET", route: "/tenants/{id}", name: "GET /tenants/{id}", own_us: 400, calls: &[Db(3, 1)] },
    Operation {
        service: TOOLS,
        method: "POST",
        route: "/tools/{tool}",
        name: "POST /tools/{tool}",
        own_us: 15_000,
        calls: &[Db(4, 2), Http(TENANT, 4)],
    },
    Operation {
        service: GATEWAY,
        method: "GET",
        route: "/v1/records/{id}",
        name: "GET /v1/records/{id}",
        own_us: 500,
        calls: &[Http(TENANT, 2), Http(READ_RECORD, 1)],
    },
    Operation {
        service: AUTOMATION,
        method: "POST",
        route: "/automations/{id}/run",
        name: "POST /automations/{id}/run",
        own_us: 4_000,
        calls: &[Http(TENANT, 1), Http(TOOL, 1), Http(WRITE_RECORD, 1)],
    },
    Operation {
        service: GATEWAY,
        method: "POST",
        route: "/v1/automations",
        name: "POST /v1/automations",
        own_us: 700,
        calls: &[Http(RUN_AUTOMATION, 1)],
    },
    Operation {
        service: AUTOMATION,
        method: "",
        route: "digests",
        name: "digests process",
        own_us: 8_000,
        calls: &[Http(TENANT, 1), Http(ORCHESTRATE, 1), Db(3, 1)],
    },
];

/// Where traces begin; drawn evenly, so that what stands twice comes twice as often.
pub const ROOTS: [usize; 8] = [0, 0, 0, 0, 6, 6, 8, 9];

/// A statement to a database.
pub struct Query {
    /// `db.system.name`.
    pub system: &'static str,
    /// `db.operation.name`.
    pub operation: &'static str,
    /// `db.collection.name`.
    pub collection: &'static str,
    /// The span's name.
    pub name: &'static str,
    /// How long, typically.
    pub us: u64,
}

/// Statements.
pub const QUERIES: [Query; 5] = [
    Query { system: "redis", operation: "GET", collection: "records", name: "GET records", us: 300 },
    Query { system: "postgresql", operation: "SELECT", collection: "records", name: "SELECT records", us: 4_200 },
    Query { system: "postgresql", operation: "INSERT", collection: "records", name: "INSERT records", us: 6_500 },
    Query { system: "postgresql", operation: "SELECT", collection: "tenants", name: "SELECT tenants", us: 1_800 },
    Query { system: "mongodb", operation: "find", collection: "tool_runs", name: "find tool_runs", us: 5_500 },
];

/// A language model.
pub struct LanguageModel {
    /// `gen_ai.provider.name`.
    pub provider: &'static str,
    /// `gen_ai.request.model`.
    pub model: &'static str,
    /// The span's name.
    pub name: &'static str,
    /// How long, typically.
    pub us: u64,
}

/// Models.
pub const MODELS: [LanguageModel; 2] = [
    LanguageModel { provider: "example", model: "large-1", name: "chat large-1", us: 640_000 },
    LanguageModel { provider: "example", model: "small-1", name: "chat small-1", us: 120_000 },
];
