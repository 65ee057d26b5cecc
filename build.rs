//! Compiles `proto/` with a protobuf compiler written in Rust: no `protoc` is needed.

use std::{env, error::Error, fs, path::PathBuf};

const INCLUDE: &str = "proto";
const PROTOS: &[&str] = &["entitlements/v1/entitlements.proto", "entitlements/v1/admin.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed={INCLUDE}");
    println!("cargo:rerun-if-changed=migrations"); // embedded by sqlx::migrate!

    let mut compiler = protox::Compiler::new([INCLUDE])?;
    compiler.include_source_info(true); // comments become Rust docs and reach reflection
    compiler.include_imports(true); // reflection answers for imported files too
    compiler.open_files(PROTOS)?;

    let descriptor = PathBuf::from(env::var("OUT_DIR")?).join("entitlements.bin");
    fs::write(descriptor, compiler.encode_file_descriptor_set())?;

    tonic_prost_build::configure()
        .build_transport(false)
        .codec_path("crate::grpc::codec::Codec")
        .compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
