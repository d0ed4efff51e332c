//! PromQL as Prometheus 3.14 has it, over any [`SeriesSource`](strandline_storage::read::SeriesSource).
//!
//! [`Engine`] takes a query's text and times to an answer. Text is cut into tokens, parsed into a tree that knows
//! the bytes of each node, checked, and evaluated series by series: a series is decoded once, its window slides over
//! all steps, and what comes out is folded into the aggregation above it.

mod aggregate;
mod annotations;
mod ast;
mod binary;
mod check;
mod error;
mod eval;
mod functions;
mod gofmt;
mod histogram;
mod json;
mod lexer;
mod memory;
mod parser;
mod printer;
mod selectors;
mod window;

pub use ast::{
    Aggregate, AggregateOp, ArithOp, At, Binary, BinaryOp, Call, Cardinality, DurationExpr, Expr, ExprKind, Extension, Matching,
    MatrixSelector, NumberLiteral, Span, Subquery, UnaryOp, ValueType, VectorSelector,
};
pub use error::{Error, Limit, ParseError, Result};
pub use eval::{Engine, EngineOptions, MatrixSeries, QueryOptions, QueryResult, QueryStats, SampleRef, SampleValue, Value, VectorSample};
pub use functions::{Function, all as all_functions, function};
pub use gofmt::{general as format_general, json as format_sample_value, plain as format_float, write_json as write_sample_value};
pub use histogram::public as histograms;
pub use json::ast_json;
pub use lexer::parse_duration_ms;
pub use memory::MemSource;
pub use parser::{MAX_QUERY_BYTES, parse, parse_matchers, parse_selector};
pub use printer::pretty;
pub use selectors::{SelectorRange, selector_ranges};
