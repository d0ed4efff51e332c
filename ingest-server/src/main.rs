//! The strandline binary.

#[global_allocator]
static ALLOCATOR: strandline_allocator::MiMalloc = strandline_allocator::MiMalloc;

fn main() -> std::process::ExitCode {
    strandline_allocator::keep_less();
    strandline_server::cli::main()
}
