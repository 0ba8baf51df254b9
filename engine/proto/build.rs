//! Compiles the .proto files without protoc. Every `bytes` field becomes `bytes::Bytes`, a slice of the received frame.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=protos");
    let files = [
        "store.proto",
        "info.proto",
        "hints.proto",
        "prometheus.proto",
        "rules.proto",
        "targets.proto",
        "metadata.proto",
        "exemplars.proto",
        "status.proto",
        "query.proto",
    ];
    let descriptors = protox::compile(files, ["protos"])?;
    tonic_prost_build::configure()
        .bytes(".")
        .btree_map(".")
        .codec_path("crate::bounded::BoundedCodec")
        .compile_fds(descriptors)?;
    Ok(())
}
