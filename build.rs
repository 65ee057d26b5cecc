//! Compiles `proto/` with protox, a protobuf compiler in Rust, so that no `protoc` is needed.

use std::{env, error::Error, fs, path::PathBuf};

const INCLUDE: &str = "proto";
/// The service's own contract.
const PROTOS: &[&str] = &[
    "entitlements/v1/entitlements.proto",
    "entitlements/v1/overrides.proto",
    "entitlements/v1/support.proto",
    "entitlements/v1/admin.proto",
];
/// Foreign contracts that the service implements, by the name of the generated module.
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

    // Builds the account cache without epochs. `.ci/run` sets it to check that the tests detect that.
    println!("cargo:rerun-if-env-changed=NAIVE_CACHE");
    if env::var_os("NAIVE_CACHE").is_some() {
        println!("cargo:rustc-cfg=naive_cache");
    }

    compile("entitlements", PROTOS, tonic_prost_build::configure())?;
    for (name, protos) in FOREIGN {
        let nested = tonic_prost_build::configure().include_file(format!("{name}.rs"));
        compile(name, protos, nested)?;
    }
    Ok(())
}

/// Generates the code, and writes the descriptors for gRPC reflection.
fn compile(
    name: &str,
    protos: &[&str],
    builder: tonic_prost_build::Builder,
) -> Result<(), Box<dyn Error>> {
    let mut compiler = protox::Compiler::new([INCLUDE])?;
    compiler.include_source_info(true); // comments become doc comments and appear in reflection
    compiler.include_imports(true); // reflection also returns imported files
    compiler.open_files(protos)?;

    let descriptor = PathBuf::from(env::var("OUT_DIR")?).join(format!("{name}.bin"));
    fs::write(descriptor, compiler.encode_file_descriptor_set())?;

    builder
        .build_transport(false)
        .codec_path("crate::server::grpc::codec::Codec")
        .compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
