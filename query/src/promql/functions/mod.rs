//! The functions: their signatures here, their work in files by family.

pub(crate) mod date;
pub(crate) mod math;
mod table;

use super::ast::ValueType;

pub use table::all;

/// A function's signature.
#[derive(Debug)]
#[non_exhaustive]
pub struct Function {
    /// Its name.
    pub name: &'static str,
    /// Types of its arguments; the last one repeats where `variadic` allows more.
    pub args: &'static [ValueType],
    /// 0: exactly these arguments. n > 0: the last may be missing or stand up to n times. -1: any number of times.
    pub variadic: i32,
    /// Type of its result.
    pub returns: ValueType,
    /// Behind a flag in Prometheus; always on here.
    pub experimental: bool,
}

impl PartialEq for Function {
    fn eq(&self, o: &Self) -> bool {
        self.name == o.name
    }
}

/// Looks a function up by name.
pub fn function(name: &str) -> Option<&'static Function> {
    table::all().binary_search_by(|f| f.name.cmp(name)).ok().map(|i| &table::all()[i])
}

/// Functions whose value may change with the evaluation time although their arguments do not.
pub fn is_at_unsafe(name: &str) -> bool {
    matches!(
        name,
        "days_in_month"
            | "day_of_month"
            | "day_of_week"
            | "day_of_year"
            | "end"
            | "hour"
            | "minute"
            | "month"
            | "year"
            | "predict_linear"
            | "range"
            | "start"
            | "step"
            | "time"
            | "timestamp"
    )
}
