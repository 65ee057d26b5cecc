//! Compiles `proto/` with a protobuf compiler written in Rust: no `protoc` is needed.

use std::{env, error::Error, fs, path::PathBuf};

const INCLUDE: &str = "proto";
/// Our own contract.
const PROTOS: &[&str] = &["entitlements/v1/entitlements.proto", "entitlements/v1/admin.proto"];
/// Those of others, by the name of what they compile to.
const FOREIGN: &[(&str, &[&str])] = &[
    ("envoy", &["envoy/service/auth/v3/external_auth.proto"]),
    (
        "flagd_evaluation",
        &["flagd/evaluation/v1/evaluation.proto", "flagd/evaluation/v2/evaluation.proto"],
    ),
    ("flagd_sync", &["flagd/sync/v1/sync.proto"]),
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed={INCLUDE}");
    println!("cargo:rerun-if-changed=migrations"); // embedded by sqlx::migrate!

    compile("entitlements", PROTOS, tonic_prost_build::configure())?;
    for (name, protos) in FOREIGN {
        let nested = tonic_prost_build::configure().include_file(format!("{name}.rs"));
        compile(name, protos, nested)?;
    }
    Ok(())
}

/// Writes the code, and the descriptors for reflection.
fn compile(
    name: &str,
    protos: &[&str],
    builder: tonic_prost_build::Builder,
) -> Result<(), Box<dyn Error>> {
    let mut compiler = protox::Compiler::new([INCLUDE])?;
    compiler.include_source_info(true); // comments become Rust docs and reach reflection
    compiler.include_imports(true); // reflection answers for imported files too
    compiler.open_files(protos)?;

    let descriptor = PathBuf::from(env::var("OUT_DIR")?).join(format!("{name}.bin"));
    fs::write(descriptor, compiler.encode_file_descriptor_set())?;

    builder
        .build_transport(false)
        .codec_path("crate::server::grpc::codec::Codec")
        .compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
